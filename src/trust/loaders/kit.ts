/**
 * What somebody who builds their own iPXE needs (U-Boot's doc/README.iscsi, "Configuration"): the script to embed, our CA,
 * what to compile in, and, for U-Boot, never to rest the processor. The folder goes beside iPXE's sources.
 */

export interface KitTerms {
  /** PEM of the certificate authority. */
  readonly authorityPem: string
  /** A common name for the README: 'Slipway CA of lab 1a2b3c'. */
  readonly authoritySubject: string
  readonly fingerprint: string
}

export interface KitFile {
  readonly path: string
  readonly content: string
  readonly executable: boolean
}

export function loadersKit(terms: KitTerms): KitFile[] {
  const file = (path: string, content: string): KitFile => ({ path, content, executable: false })
  return [
    file('README', readme(terms)),
    { path: 'build', content: build, executable: true },
    file('ca.crt', terms.authorityPem),
    file('embed.ipxe', embed),
    file('config/general.h', general),
    file('config/nap.h', nap),
  ]
}

/** The URL of the machine's own script comes by DHCP; the certificate, and not DHCP, says who may give it. */
const embed = `#!ipxe
# Embedded into iPXE. The address of the script comes from DHCP, which anybody can answer; what makes the script
# trustworthy is that it comes by HTTPS from a server that the CA in this binary has signed for.
set tries:int32 0
:again
inc tries
dhcp || goto retry
isset \${filename} || goto nofile
chain --autofree \${filename} || goto retry
exit
:nofile
echo Slipway: DHCP gave an address, and no script to load. Is Slipway running?
:retry
echo Slipway: try \${tries} failed (https://ipxe.org/err says what the number above means). Again in 5 seconds.
iseq \${tries} 5 && goto give_up ||
sleep 5
goto again
:give_up
echo Slipway: giving up; the firmware goes on with its next boot option.
exit 1
`

const general = `/* config/local/general.h: U-Boot's doc/README.iscsi, and what Slipway's scripts use. */
#define NSLOOKUP_CMD            /* Name resolution command */
#define PING_CMD                /* Ping command */
#define NTP_CMD                 /* NTP commands: a clock that is wrong refuses every certificate */
#define VLAN_CMD                /* VLAN commands: storage on a network of its own */
#define REBOOT_CMD              /* Reboot command */
#define POWEROFF_CMD            /* Power off command */
#define CERT_CMD                /* Certificate management commands */
#define IMAGE_TRUST_CMD         /* Image trust management commands */
#define DOWNLOAD_PROTO_HTTPS    /* Secure Hypertext Transfer Protocol */
`

const nap = `/* config/local/nap.h: U-Boot has no timer interrupt to wake a resting processor. */
#undef NAP_EFI
#undef NAP_EFIX86
#undef NAP_EFIARM
#define NAP_NULL
`

const build = `#!/bin/sh
# Builds iPXE with this kit: ./build PATH-TO-IPXE-SOURCES [TARGET ...]
# Needs gcc, make, liblzma-dev, perl, openssl; for arm64 on another machine also gcc-aarch64-linux-gnu and
# CROSS=aarch64-linux-gnu- in the environment.
set -eu
kit=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ] || [ ! -f "$1/src/Makefile" ]; then
  echo "usage: $0 PATH-TO-IPXE-SOURCES [TARGET ...]   (git clone https://github.com/ipxe/ipxe)" >&2
  exit 2
fi
sources=$1
shift
[ $# -gt 0 ] || set -- bin-x86_64-efi/snp.efi bin-x86_64-efi/snponly.efi bin/undionly.kpxe
# A certificate of the machine's own (slipway certificate issue MAC --out DIR): MACHINE=DIR, or in this folder.
machine=\${MACHINE:-$kit}
certificates=$kit/ca.crt
key=
results=$kit
if [ -f "$machine/machine.key" ]; then
  certificates=$machine/machine.crt,$kit/ca.crt
  key=$machine/machine.key
  results=$machine
fi
mkdir -p "$sources/src/config/local"
cp "$kit/config/general.h" "$sources/src/config/local/general.h"
# NO_WERROR: a compiler newer than the sources warns of what they could not know, and they end at a warning (iPXE of 2019).
# HOST_CFLAGS: with CROSS they would hand an option for arm64 (-mabi=lp64) to this machine's own compiler too (2019).
for target in "$@"; do
  # Resting the processor is right everywhere but under U-Boot, which is given snp.efi.
  case $target in
  *snp.efi) cp "$kit/config/nap.h" "$sources/src/config/local/nap.h" ;;
  *) rm -f "$sources/src/config/local/nap.h" ;;
  esac
  make -C "$sources/src" -j"$(nproc)" "$target" NO_WERROR=1 \\
    EMBED="$kit/embed.ipxe" CERT="$certificates" TRUST="$kit/ca.crt" \${key:+PRIVKEY="$key"} \\
    \${CROSS:+CROSS="$CROSS"} \${CROSS:+HOST_CFLAGS="-O2 -g"}
  cp "$sources/src/$target" "$results/$(echo "$target" | tr / -)"
done
if [ -n "$key" ]; then
  echo "They hold the key of one machine: put them into its flash, or on a stick that stays with it. Do not give them to"
  echo "Slipway: what it hands out by TFTP or HTTP can be read by whoever asks."
else
  echo "Give them to Slipway: slipway loaders add FILE"
fi
`

function readme({ authoritySubject, fingerprint }: KitTerms): string {
  return `Everything that an iPXE of your own needs to trust this site and nobody else.

  ./build PATH-TO-IPXE-SOURCES        makes snp.efi (U-Boot), snponly.efi (UEFI) and undionly.kpxe (BIOS)
  slipway loaders add FILE            and Slipway hands it out

ca.crt             ${authoritySubject}
                   ${fingerprint}
                   goes in as TRUST= (whom it believes) and CERT= (so that servers need not send it)
embed.ipxe         asks DHCP, then loads the machine's script from the HTTPS address it was told
config/general.h   HTTPS, VLAN, NTP and the commands that Slipway's scripts use
config/nap.h       for U-Boot: never rest the processor (doc/README.iscsi there)

MACHINE=DIR ./build PATH-TO-IPXE-SOURCES makes them for one machine alone, with the certificate that
\`slipway certificate issue MACHINE --out DIR\` has put there: such a machine can prove which one it is. From a disk, a stick or flash it is snp.efi
that finds the network card; snponly.efi knows only the card that it was loaded by.

The key of the CA is not here and is not needed. Whoever has these binaries can start a boot, and gets no secret by it.
`
}
