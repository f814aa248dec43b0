#!/bin/sh
# Makes the images of this folder again, with other people's tools: gdisk, dosfstools, mtools, e2fsprogs, fdisk, xorriso, binutils,
# sbsigntool, openssl. Run here. Sizes and serial numbers are fixed; times are not read by anything.
set -eu
export MTOOLS_SKIP_CHECK=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# GPT with two partitions, 64 KiB of disk: only the table matters.
truncate -s 96K "$work/gpt.img"
sgdisk -a 1 -U 11111111-2222-3333-4444-555555555555 \
  -n 1:40:60 -t 1:ef00 -c 1:'EFI system' -u 1:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee \
  -n 2:61:100 -t 2:8300 -c 2:'root µ' -u 2:01020304-0506-0708-090a-0b0c0d0e0f10 "$work/gpt.img" >/dev/null
# MBR with a primary, an active, an extended partition and two logical ones in it.
truncate -s 64K "$work/mbr.img"
printf 'label: dos\nlabel-id: 0xcafe1234\nunit: sectors\nstart=2,size=10,type=c\nstart=12,size=8,type=83,bootable\nstart=20,size=80,type=5\nstart=22,size=10,type=83\nstart=40,size=10,type=ef\n' |
  sfdisk -q --no-reread "$work/mbr.img"

tree="$work/tree"
mkdir -p "$tree/EFI/BOOT" "$tree/a folder with a long name"
printf 'hello\n' >"$tree/HELLO.TXT"
printf 'short in lower case\n' >"$tree/lower.txt"
printf 'a long name, with ünïcode\n' >"$tree/a folder with a long name/Ein längerer Name.text"
seq 1 2000 >"$tree/EFI/BOOT/numbers.txt"
for bits in 12 16 32; do
  case $bits in 12) size=160K cluster=1 ;; 16) size=4300K cluster=1 ;; 32) size=33500K cluster=1 ;; esac
  truncate -s $size "$work/fat$bits.img"
  mkfs.fat -F $bits -s $cluster -i c0ffee0$((bits % 10)) -n "FAT $bits" "$work/fat$bits.img" >/dev/null
  for each in "$tree"/*; do mcopy -s -i "$work/fat$bits.img" "$each" ::/ ; done
done

root="$work/root"
mkdir -p "$root/etc" "$root/boot" "$root/usr/lib" "$root/many"
printf 'PRETTY_NAME="Tiny Linux 1 (test)"\nID=tiny\nVERSION_ID="1"\n' >"$root/usr/lib/os-release"
ln -s ../usr/lib/os-release "$root/etc/os-release"
ln -s /usr/lib "$root/lib"
ln -s loop "$root/loop"
ln -s "$(printf '/usr/lib/%080d/../os-release' 0)" "$root/slow-link"
mkdir "$root/usr/lib/$(printf '%080d' 0)"
seq 1 3000 >"$root/numbers"
truncate -s 3000 "$root/sparse"
printf 'end' >>"$root/sparse"
for i in $(seq 1 120); do : >"$root/many/a-name-that-fills-the-directory-$i"; done
head -c 5000 /dev/zero | tr '\0' k >"$root/boot/vmlinuz-6.1.0-tiny"
printf 'initrd' >"$root/boot/initrd.img-6.1.0-tiny"
mkfs() { # name, kind, options
  truncate -s 512K "$work/$1.img"
  shift_name=$1 kind=$2
  shift 2
  mkfs.$kind -q -F -b 1024 -N 200 -L tiny -U 12345678-9abc-def0-1234-56789abcdef0 "$@" -d "$root" "$work/$shift_name.img"
}
mkfs ext4 ext4 -O ^has_journal,inline_data,64bit,metadata_csum -I 256
mkfs ext4-plain ext4 -O ^has_journal,^64bit,^metadata_csum,^inline_data
mkfs ext2 ext2

iso="$work/iso"
mkdir -p "$iso/a-directory"
head -c 2048 /dev/zero | tr '\0' b >"$iso/isolinux.bin"
printf 'a name that is long' >"$iso/a-directory/A name of Rock Ridge.text"
printf 'PRETTY_NAME="Tiny disc"\n' >"$iso/os-release"
cp "$work/fat12.img" "$iso/efi.img"

# A program of nothing, for two processors, the second signed by a certificate of its own.
printf '.globl _start\n_start: ret\n' >"$work/a.s"
as -o "$work/a.o" "$work/a.s"
printf 'sbat,1,SBAT Version,sbat,1,https://example.org\nslipway.test,3,Test,test,1.2,https://example.org\n' >"$work/sbat"
printf 'ID=tiny\nPRETTY_NAME="Tiny Linux 1"\n' >"$work/osrel"
printf 'console=ttyS0 quiet' >"$work/cmdline"
printf 'not a kernel' >"$work/linux"
objcopy -O binary "$work/a.o" "$work/a.bin"
ld -m i386pep --subsystem 10 -e _start -o "$work/plain.efi" "$work/a.o" 2>/dev/null ||
  ld -o "$work/a.elf" -e _start "$work/a.o"
[ -f "$work/plain.efi" ] || objcopy -O efi-app-x86_64 "$work/a.elf" "$work/plain.efi"
objcopy --add-section .sbat="$work/sbat" --add-section .osrel="$work/osrel" --add-section .cmdline="$work/cmdline" \
  --add-section .linux="$work/linux" \
  --change-section-vma .sbat=0x10000 --change-section-vma .osrel=0x11000 --change-section-vma .cmdline=0x12000 \
  --change-section-vma .linux=0x13000 "$work/plain.efi" "$work/uki.efi"
openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -subj '/C=DE/O=Slipway Test/CN=A signer of tests' \
  -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
sbsign --key "$work/key.pem" --cert "$work/cert.pem" --output "$work/signed.efi" "$work/uki.efi" 2>/dev/null


xorriso -as mkisofs -quiet -R -V TINY_ISO -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
  -eltorito-alt-boot -e efi.img -no-emul-boot -o "$work/iso.img" "$iso" 2>/dev/null

for name in gpt.img mbr.img fat12.img fat16.img fat32.img ext4.img ext4-plain.img ext2.img iso.img uki.efi signed.efi; do
  gzip -9 -n -c "$work/$name" >"$name.gz"
done
