/** nginx serving one folder on the lab's address. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Child } from '../child.ts'
import { type LabNetwork, lab } from '../namespace.ts'
import { portListening } from './port.ts'

export type NginxTls = { readonly port: number; readonly certificatePath: string; readonly keyPath: string }

/** Ready when it returns: on port 80, or on the port of `tls` and not without. */
export async function startNginx(network: LabNetwork, folder: string, served: string, tls?: NginxTls): Promise<Child> {
  const port = tls?.port ?? 80
  const certificate = tls && ` ssl_certificate ${tls.certificatePath}; ssl_certificate_key ${tls.keyPath};`
  const state = join(folder, 'nginx')
  await mkdir(state, { recursive: true })
  const config = `daemon off; master_process off; user root; worker_processes 1;
pid ${state}/pid; error_log ${state}/error.log;
events { worker_connections 64; }
http {
  access_log ${state}/access.log;
  client_body_temp_path ${state}/body; proxy_temp_path ${state}/proxy; fastcgi_temp_path ${state}/fastcgi;
  uwsgi_temp_path ${state}/uwsgi; scgi_temp_path ${state}/scgi;
  server { listen ${lab.serverAddress}:${port}${tls ? ' ssl' : ''}; root ${served}; sendfile on;${certificate ?? ''} }
}
`
  await writeFile(join(state, 'nginx.conf'), config)
  const child = network.start(['nginx', '-e', `${state}/error.log`, '-c', `${state}/nginx.conf`], { name: 'nginx' })
  child.discardOutput()
  await portListening(network, child, port)
  return child
}
