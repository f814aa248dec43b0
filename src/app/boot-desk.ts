/**
 * Where a machine's questions are answered: what to load (asked by DHCP), the loader (by TFTP or HTTP), its script (by HTTP
 * or HTTPS). The rooms speak the protocols, `fleet` says who may, `boot` says what; here they are plugged together.
 */
import { formatIpv4, type Mac, parseIpv4 } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import {
  linuxUrl,
  loaderUrl,
  parsePath,
  parseReport,
  parseScriptQuery,
  reportUrl,
  scriptUrl,
  signInUrl,
  type WebServer,
} from '../boot/addresses.ts'
import { chooseScript, type Refusal } from '../boot/choose-script.ts'
import { kernelScript, noKernelScript, noKernelWords } from '../boot/kernel-script.ts'
import { refetchesMax } from '../boot/limits.ts'
import { type Plan, planBoot } from '../boot/plan.ts'
import { forgetTyped, proveScript, signInScript } from '../boot/proof-scripts.ts'
import { bootScript, heldScript, refusedScript, type StorageAddress, tlsScript } from '../boot/scripts.ts'
import type { ClientFacts } from '../dhcp/client-facts.ts'
import type { BootAdvisor, BootAnswer, BootQuestion } from '../dhcp/policy.ts'
import type { BootCredentials } from '../fleet/credentials.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { Machine } from '../fleet/machine.ts'
import { admissionOnly, type Proof } from '../fleet/proof.ts'
import type { HttpAnswer, HttpRequest } from '../http/policy.ts'
import { print } from '../ipxe/print.ts'
import type { Script } from '../ipxe/script.ts'
import type { Clock } from '../ports/clock.ts'
import type { TftpCatalogue, TftpFile } from '../tftp/policy.ts'
import { bytesFile, nothingThere } from './boot-answers.ts'
import type { ChapMode, Ports, Start } from './config.ts'
import { Encounters, waitingMachinesMax } from './encounters.ts'
import type { EventStream } from './event-stream.ts'
import type { FirmwareHttps } from './firmware-https.ts'
import type { FoundKernel, LinuxDesk } from './linux-desk.ts'
import type { LoaderCatalogue } from './loaders.ts'
import type { NoLoader } from './no-loader.ts'
import type { ProofDesk, ShownCertificate, SignIn } from './proof-desk.ts'
import type { Roster } from './roster.ts'
import type { StorageNetwork } from './storage-network.ts'

export type BootDeskParts = {
  readonly fleet: Fleet
  readonly roster: Roster
  readonly events: EventStream
  readonly loaders: LoaderCatalogue
  readonly clock: Clock
  readonly ports: Ports
  readonly chap: ChapMode
  readonly proofs: ProofDesk
  /** By which host machines ask by HTTPS; undefined while it is not served: certificates take a moment to make. */
  httpsHost(): string | undefined
  /** Whether our CA is enrolled in this machine's UEFI: what the configuration says, no handshake yet. */
  firmwareTrustsUs(machine: Machine | undefined): boolean
  readonly firmwareHttps: FirmwareHttps
  /** It has what it needs to log in to its disk. */
  willBoot(mac: Mac): void
  /** Asked before that. */
  noLoaderFor(mac: Mac): NoLoader | undefined
  /** How the machine's system is started: by its disk's boot loader, or its kernel at once. */
  startOf(mac: Mac, image: string): Start
  readonly linux: LinuxDesk
  /** Where iSCSI is, if it has a VLAN of its own. */
  readonly storage: StorageNetwork | undefined
}

export class BootDesk implements BootAdvisor, TftpCatalogue {
  readonly #parts: BootDeskParts
  /** Machines that wait for our HTTPS, so that each is an event once. */
  readonly #waitingForTls = new Set<Mac>()
  readonly #encounters: Encounters

  constructor(parts: BootDeskParts) {
    this.#parts = parts
    this.#encounters = new Encounters(parts)
  }

  /** Asked by DHCP for every packet. */
  answer(client: ClientFacts, where: BootQuestion): BootAnswer {
    const { roster } = this.#parts
    const kind = client.program.kind
    // Phones and printers are nobody's machines: they are not remembered.
    if (kind === 'other' || kind === 'linuxIpconfig') return { kind: 'addressOnly' }
    roster.heard(client)
    const { machine, standing } = this.#encounters.meet({ mac: client.mac, uuid: client.uuid, serial: undefined })
    const plan = planBoot({
      client,
      standing,
      transport: this.#parts.fleet.transportOf(machine),
      loaders: this.#parts.loaders.known,
      httpsServed: this.#parts.httpsHost() !== undefined,
      firmwareTrustsUs: this.#parts.firmwareTrustsUs(machine),
      diskOnVlan: this.#parts.storage !== undefined,
      loaderWasTried: roster.loaderWasTried(client.mac),
    })
    const { program } = client
    if (plan.kind === 'script' && program.kind === 'ipxe' && program.features.size > 0) {
      this.#parts.fleet.loaderTold(machine, program.features.has('https'))
    }
    return this.#answerOf(plan, client.mac, machine, where)
  }

  /** Why a machine is told what it is told, for people. Does not change anything. */
  reasonFor(client: ClientFacts): string {
    const machine = this.#parts.fleet.machine(client.mac)
    return planBoot({
      client,
      standing: machine?.decision === 'refused' ? 'refused' : 'admitted',
      transport: machine === undefined ? this.#parts.fleet.terms.transport : this.#parts.fleet.transportOf(machine),
      loaders: this.#parts.loaders.known,
      httpsServed: this.#parts.httpsHost() !== undefined,
      firmwareTrustsUs: this.#parts.firmwareTrustsUs(machine),
      diskOnVlan: this.#parts.storage !== undefined,
      loaderWasTried: this.#parts.roster.loaderWasTried(client.mac),
    }).reason
  }

  /** Asked by TFTP. */
  find(name: string): TftpFile | undefined {
    const bytes = this.#parts.loaders.find(name)
    return bytes && bytesFile(bytes)
  }

  /** Asked by HTTP and HTTPS. */
  serve(request: HttpRequest): HttpAnswer | Promise<HttpAnswer> {
    const resource = parsePath(request.path)
    switch (resource?.kind) {
      case 'loader':
        return this.#serveLoader(resource.file)
      case 'script':
        return this.#serveScript(resource.mac, request)
      case 'report':
        return this.#takeReport(resource.mac, request)
      case 'linux':
        return this.#parts.linux.serve(resource.mac, resource.file, request)
      default:
        return nothingThere
    }
  }

  #answerOf(plan: Plan, mac: Mac, machine: Machine, where: BootQuestion): BootAnswer {
    const hostName = machine.name === undefined ? {} : { hostName: machine.name }
    switch (plan.kind) {
      case 'loader': {
        if (plan.via === 'https') this.#parts.firmwareHttps.told(mac)
        const web = this.#web(where.serverAddress, plan.via === 'https')
        return { kind: 'boot', bootFile: plan.via === 'tftp' ? plan.file : loaderUrl(web, plan.file), ...hostName }
      }
      case 'script':
        return {
          kind: 'boot',
          bootFile: scriptUrl(this.#web(where.serverAddress, plan.via === 'https'), mac),
          ...hostName,
        }
      case 'hold':
        this.#parts.events.emit({ mac }, { kind: 'held', reason: plan.reason })
        return { kind: 'addressOnly', ...hostName }
      case 'addressOnly':
        return { kind: 'addressOnly', ...hostName }
    }
  }

  #serveLoader(file: string): HttpAnswer {
    const bytes = this.#parts.loaders.find(file)
    if (bytes === undefined) return { status: 404, body: { kind: 'text', text: 'There is no such loader.\n' } }
    return { status: 200, headers: { 'Content-Type': 'application/efi' }, body: { kind: 'bytes', bytes } }
  }

  #serveScript(mac: Mac, request: HttpRequest): HttpAnswer | Promise<HttpAnswer> {
    const { fleet, proofs } = this.#parts
    // A password is looked at where one is needed, and nowhere else: it costs a tenth of a second.
    if (!request.headers.has('authorization') || fleet.requiredOf(mac) !== 'login')
      return this.#chooseScript(mac, request, { kind: 'none' })
    return proofs.signIn(mac, request).then((signIn) => this.#chooseScript(mac, request, signIn))
  }

  #chooseScript(mac: Mac, request: HttpRequest, signIn: SignIn): HttpAnswer | Promise<HttpAnswer> {
    const { events, fleet, ports, proofs, roster } = this.#parts
    const query = parseScriptQuery(request.query)
    const { address } = request.from
    roster.hasAddress(mac, address)
    const { uuid, serial } = query
    const encounter = this.#encounters.meet({ mac, uuid, serial, forSecrets: true }, address)
    const { machine, standing } = encounter
    const client = roster.clientOf(mac)
    const certificate = proofs.certificate(mac, request)
    const choice = chooseScript({
      standing,
      transport: fleet.transportOf(machine),
      secure: request.secure,
      httpsServed: this.#parts.httpsHost() !== undefined,
      features: client?.program.kind === 'ipxe' ? client.program.features : undefined,
      hadHttps: machine.loaderHasHttps,
      required: fleet.requiredOf(mac),
      certificate: certificate.kind,
      certificateAsked: request.local.port === ports.proof,
      signedIn: signIn.kind === 'signedIn',
      diskOnVlan: this.#parts.storage !== undefined,
      waited: query.pollCount > 0,
    })
    const { secure, local } = request
    if (choice.script !== 'tls' || choice.served) this.#waitingForTls.delete(mac)
    const host = (secure ? this.#parts.httpsHost() : undefined) ?? local.address
    const web = { secure, host, port: local.port }
    const script = choice.script === 'tls' ? 'held' : choice.script
    const served = { kind: 'scriptServed', script, encrypted: request.secure } as const
    const clean = signIn.kind === 'none' ? [] : forgetTyped
    switch (choice.script) {
      case 'held': {
        if (this.#encounters.waits(encounter, address)) {
          events.emit({ mac, address }, { ...served, bootId: undefined, image: undefined })
        }
        const { pollCount } = query
        const pollUrl = scriptUrl(web, mac, { poll: pollCount + 1 })
        const { rival } = encounter
        return scriptAnswer([...clean, ...heldScript({ mac, uuid, serial, rival, pollCount, pollUrl })])
      }
      case 'tls': {
        if (!choice.served && !this.#waitingForTls.has(mac)) {
          // Invented machines are told of again, and fill no memory.
          if (this.#waitingForTls.size >= waitingMachinesMax) this.#waitingForTls.clear()
          this.#waitingForTls.add(mac)
          events.emit({ mac, address }, { kind: 'held', reason: 'its script goes by HTTPS, which is not served now' })
          events.emit({ mac, address }, { ...served, bootId: undefined, image: undefined })
        }
        const { pollCount } = query
        const url = choice.served ? scriptUrl(this.#web(local.address, true), mac) : undefined
        return scriptAnswer(tlsScript({ mac, url, pollCount, pollUrl: scriptUrl(web, mac, { poll: pollCount + 1 }) }))
      }
      case 'prove': {
        events.emit({ mac, address }, { ...served, bootId: undefined, image: undefined })
        return scriptAnswer(proveScript({ mac, proofUrl: scriptUrl({ ...web, port: ports.proof }, mac) }))
      }
      case 'signIn': {
        // iPXE sends what was typed when it is asked for it.
        if (query.signIn && signIn.kind === 'none') return askForPassword
        events.emit({ mac, address }, { ...served, bootId: undefined, image: undefined })
        const before = signIn.kind === 'refused' ? signIn.trouble : undefined
        return scriptAnswer(signInScript({ mac, signInUrl: signInUrl(web, mac), before }))
      }
      case 'refused':
        return this.#refuse(mac, choice.why, address, clean)
      case 'boot': {
        if (request.method === 'HEAD') return scriptAnswer([])
        const proof = proofOf(choice.proved, certificate, signIn)
        const asking = { web, portalAddress: local.address, refetchCount: query.refetchCount, address, proof }
        return this.#parts.startOf(mac, fleet.assignmentOf(machine).image) === 'kernel'
          ? this.#serveKernelScript(machine, asking)
          : this.#serveBootScript(machine, asking)
      }
    }
  }

  #refuse(mac: Mac, why: Refusal, address: string, clean: Script = []): HttpAnswer {
    this.#parts.events.emit({ mac, address }, { kind: 'refused', reason: why })
    return scriptAnswer([...clean, ...refusedScript({ mac, why })])
  }

  #serveBootScript(machine: Machine, asking: Asking): HttpAnswer {
    const { web, portalAddress, refetchCount, address } = asking
    const { chap, events, ports, storage, fleet } = this.#parts
    const { mac } = machine
    const joined = storage && { ...storage, reserved: parseIpv4(storage.address) ?? 0 }
    const storageAddress = joined && fleet.storageAddressOf(mac, joined)
    if (storage !== undefined && storageAddress === undefined) return this.#refuse(mac, 'noAddress', address)
    const noLoader = this.#parts.noLoaderFor(mac)
    const { credentials, image } = this.#mint(machine, 'disk', asking)
    const { bootId } = credentials
    if (noLoader !== undefined) events.emit({ mac, address }, { kind: 'noLoader', ...noLoader })
    if (this.#parts.roster.isUboot(mac)) events.emit({ mac, address }, { kind: 'rootUndescribed' })
    return scriptAnswer(
      bootScript({
        mac,
        image,
        noLoader: noLoader?.reason,
        bootId,
        portal: { address: storage?.address ?? portalAddress, port: ports.iscsi },
        storage: placeOf(storage, storageAddress),
        targetName: credentials.targetName,
        initiatorName: credentials.initiatorName,
        initiator: chap === 'none' ? undefined : credentials.initiator,
        target: chap === 'mutual' ? credentials.target : undefined,
        reportUrl: reportUrl(web, mac, bootId),
        refetchUrl: refetchCount < refetchesMax ? scriptUrl(web, mac, { refetch: refetchCount + 1 }) : undefined,
      }),
    )
  }

  /** The disk is looked at first: for one without a kernel no secrets are minted. */
  async #serveKernelScript(machine: Machine, asking: Asking): Promise<HttpAnswer> {
    const { web, portalAddress, refetchCount, address } = asking
    const { events, fleet, linux } = this.#parts
    const { mac } = machine
    const { image } = fleet.assignmentOf(machine)
    const found = await this.#findKernel(mac)
    if (found.kind === 'none') {
      const { reason, hint } = noKernelWords(found.why)
      const why = `${reason} ${image}: ${found.detail}`
      events.emit({ mac, address }, { kind: 'failed', step: 'kernel', reason: why, hint })
      return scriptAnswer(noKernelScript({ mac, image, why: found.why }))
    }
    const { credentials } = this.#mint(machine, 'kernel', asking)
    const { bootId } = credentials
    const { words, isPc, kernel, initramfs } = found
    return scriptAnswer(
      kernelScript({
        mac,
        image,
        bootId,
        address: portalAddress,
        files: { url: linuxUrl(web, mac), key: linux.keyOf(credentials), kernel, initramfs },
        words,
        isPc,
        reportUrl: reportUrl(web, mac, bootId),
        refetchUrl: refetchCount < refetchesMax ? scriptUrl(web, mac, { refetch: refetchCount + 1 }) : undefined,
      }),
    )
  }

  async #findKernel(mac: Mac): Promise<FoundKernel> {
    try {
      return await this.#parts.linux.find(mac)
    } catch (error) {
      if (!(error instanceof OperationError)) throw error
      return { kind: 'none', why: 'unopened', detail: `${error.message}. ${error.hint}` }
    }
  }

  /** Secrets for one boot, and the event that a script with them leaves. */
  #mint(machine: Machine, start: Start, asking: Asking): { credentials: BootCredentials; image: string } {
    const { events, fleet, storage } = this.#parts
    const { address, proof, web } = asking
    const { mac } = machine
    const credentials = fleet.offerCredentials(mac, this.#parts.clock.wallMs(), proof, address)
    const { image } = fleet.assignmentOf(machine)
    const { bootId } = credentials
    events.emit({ mac, address }, { kind: 'credentialsMinted', bootId })
    const script = { kind: 'scriptServed', script: 'boot', bootId, image, encrypted: web.secure, proof } as const
    const isKernel = start === 'kernel' ? { start } : {}
    events.emit({ mac, address }, { ...script, ...isKernel, storageVlan: storage?.vlan })
    this.#parts.willBoot(mac)
    return { credentials, image }
  }

  #takeReport(mac: Mac, request: HttpRequest): HttpAnswer {
    const report = parseReport(request.query)
    if (report !== undefined) {
      const { bootId } = report
      const isItself = bootId !== undefined && this.#parts.fleet.holdsBoot(mac, bootId)
      const whose = { mac: isItself ? mac : undefined, address: request.from.address }
      this.#parts.events.emit(whose, { kind: 'machineReported', step: report.step, error: report.error })
    }
    return { status: 200, body: { kind: 'text', text: '' } }
  }

  #web(address: string, secure: boolean): WebServer {
    const { ports } = this.#parts
    if (!secure) return { secure, host: address, port: ports.http }
    return { secure, host: this.#parts.httpsHost() ?? address, port: ports.https }
  }
}

type Asking = {
  readonly web: WebServer
  readonly portalAddress: string
  readonly refetchCount: number
  readonly address: string
  readonly proof: Proof
}

function proofOf(kind: Proof['kind'], certificate: ShownCertificate, signIn: SignIn): Proof {
  if (kind === 'certificate' && certificate.kind === 'good') return { kind, fingerprint: certificate.fingerprint }
  if (kind === 'login' && signIn.kind === 'signedIn') return { kind, account: signIn.account }
  return admissionOnly
}

/** RFC 7617 §2. Both iPXEs then ask again with the name and the password of the address, and show neither. */
const askForPassword: HttpAnswer = {
  status: 401,
  headers: { 'WWW-Authenticate': 'Basic realm="Slipway", charset="UTF-8"', 'Cache-Control': 'no-store' },
  body: { kind: 'text', text: 'A name and a password are needed.\n' },
}

function placeOf(storage: StorageNetwork | undefined, address: number | undefined): StorageAddress | undefined {
  if (storage === undefined || address === undefined) return undefined
  return { vlan: storage.vlan, address: formatIpv4(address), netmask: storage.netmask }
}

function scriptAnswer(script: Script): HttpAnswer {
  return {
    status: 200,
    // A script is made for one asking: nobody in between may keep it.
    headers: { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' },
    body: { kind: 'text', text: print(script) },
  }
}
