//! The loaders of generation 0: QEMU itself, firmware, or another kernel.
//!
//! Kernel, disk, bootargs and verdict are the same for every loader. This file does not check that
//! a loader is installed; `needs` does.
//!
//! Each loader takes the Image and the bootargs in its own way:
//!
//! | loader | Image | bootargs |
//! |---|---|---|
//! | qemu | QEMU puts it into RAM | QEMU writes them into the device tree |
//! | uefi | an application, which EDK2 takes from fw_cfg | the application's load options |
//! | uefi-shell | a file on a FAT volume, started by EDK2's shell | arguments after its name |
//! | u-boot-booti | `qfw load` takes it from fw_cfg | the same command sets U-Boot's variable |
//! | u-boot-bootm | out of our own FIT on the disk | `setenv`, typed |
//! | linux-kexec | in the initrd of Debian's kernel, which kexecs it | a file next to it |
//! | uefi-linux-kexec | the same, with a Linux that EDK2 started | the same |

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    config::OwnLoader,
    debian::{Debian, MODULES},
    error::Usage,
    firmware::{EDK2, Firmware, U_BOOT},
    needs::Need,
};
use protocol::fit::writer::SECTOR;

/// The number of empty lines that are typed first. U-Boot drops the content of the UART's FIFO, at
/// most 32 characters, when it sets the UART up.
const AHEAD: usize = 33;

/// The folder that the guest sees as a FAT volume.
pub const VOLUME: &str = "volume";

/// The file name of Linux's initrd.
const RAMDISK: &str = "ramdisk";

/// Linux's command line when it is the loader. A panic ends the machine instead of waiting.
const LINUX: &str = "console=ttyAMA0 panic=-1";

/// Linux's /init when it is the loader. When Linux kexecs, the disk and the network device, if any,
/// are in use, so only the kernel itself can shut them down. Without -x, kexec(8) would take
/// networks down first.
const KEXEC: &str = r#"
export PATH=/bin
for name in mount insmod dd cat poweroff sleep ifconfig; do alias $name="busybox $name"; done
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for name in {modules}; do insmod /lib/$name.ko; done
dd if=/dev/vda of=/dev/null bs=4096
[ -e /sys/class/net/eth0 ] && ifconfig eth0 up && sleep 1 && cat /proc/net/dev
kexec -l /Image --append="$(cat /bootargs)" && kexec -e -x
poweroff -f
"#;

/// A way to start generation 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Loader {
    /// QEMU's own -kernel
    #[default]
    Qemu,
    /// UEFI (EDK2): starts the Image as a PE/COFF application
    Uefi,
    /// UEFI's shell: starts the Image as a file on a FAT volume, after a countdown of five seconds
    UefiShell,
    /// U-Boot's booti: boots the Image
    UBootBooti,
    /// U-Boot's bootm: boots the FIT on the disk
    UBootBootm,
    /// Linux's kexec: Debian's kernel, which apt fetches once
    LinuxKexec,
    /// Linux's kexec on a UEFI machine: UEFI's memory map describes RAM, not the device tree
    UefiLinuxKexec,
}

impl Loader {
    /// Every loader but QEMU.
    pub const OTHERS: [Self; 6] = [
        Self::Uefi,
        Self::UefiShell,
        Self::UBootBooti,
        Self::UBootBootm,
        Self::LinuxKexec,
        Self::UefiLinuxKexec,
    ];

    /// The name as typed on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Uefi => "uefi",
            Self::UefiShell => "uefi-shell",
            Self::UBootBooti => "u-boot-booti",
            Self::UBootBootm => "u-boot-bootm",
            Self::LinuxKexec => "linux-kexec",
            Self::UefiLinuxKexec => "uefi-linux-kexec",
        }
    }

    /// The loader of that name; `None` if it is one of the user's `own`. Another name is a usage
    /// error that lists all of them.
    pub fn named(name: &str, own: &BTreeMap<String, OwnLoader>) -> Result<Option<Self>> {
        let all = || [Self::Qemu].into_iter().chain(Self::OTHERS);
        let ours = all().find(|loader| loader.name() == name);
        if ours.is_none() && !own.contains_key(name) {
            let ours = all().map(|loader| loader.name().to_owned());
            let known = ours.chain(own.keys().cloned()).collect::<Vec<_>>().join(", ");
            return Err(Usage(format!("there is no loader `{name}`; there are: {known}")).into());
        }
        Ok(ours)
    }

    /// The firmware that QEMU starts instead of the Image.
    pub fn firmware(self) -> Option<&'static Firmware> {
        match self {
            Self::Qemu | Self::LinuxKexec => None,
            Self::Uefi | Self::UefiShell | Self::UefiLinuxKexec => Some(&EDK2),
            Self::UBootBooti | Self::UBootBootm => Some(&U_BOOT),
        }
    }

    /// The things that the loader needs besides QEMU.
    pub fn needs(self) -> impl Iterator<Item = Need> {
        let needs: &[Need] = match self {
            Self::Qemu => &[],
            Self::Uefi | Self::UefiShell => &[Need::Edk2],
            Self::UBootBooti | Self::UBootBootm => &[Need::UBoot],
            Self::LinuxKexec => &[Need::Debian],
            Self::UefiLinuxKexec => &[Need::Edk2, Need::Debian],
        };
        needs.iter().copied()
    }

    /// Whether a Linux kexecs the Image.
    pub fn is_linux(self) -> bool {
        matches!(self, Self::LinuxKexec | Self::UefiLinuxKexec)
    }

    /// Installs or fetches the loader if it is missing. The error may be a
    /// [`Skipped`](crate::error::Skipped).
    pub fn ensure(self, yes: bool) -> Result<()> {
        self.needs().try_for_each(|need| need.ensure(yes))
    }

    /// Extra time before generation 0 is entered: under QEMU on a busy host, Linux needs some ten
    /// seconds.
    pub fn patience(self) -> Duration {
        Duration::from_secs(if self.is_linux() { 120 } else { 0 })
    }

    /// QEMU's arguments for the firmware, the Image and the bootargs.
    pub fn words(self, image: &Path, bootargs: &str) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(firmware) = self.firmware() {
            let place = firmware.found().unwrap_or_else(|| firmware.places[0].into());
            words.extend(["-bios".to_owned(), place.display().to_string()]);
        }
        if let Self::Uefi | Self::UefiShell | Self::UefiLinuxKexec = self {
            // With ACPI tables EDK2 provides no device tree, and our kernel reads nothing else.
            words.extend(["-machine", "acpi=off"].map(str::to_owned));
            // Otherwise EDK2's boot manager waits five seconds for a key.
            words.extend(["-boot", "menu=on,splash-time=0"].map(str::to_owned));
        }
        if self == Self::UefiShell {
            words.extend(volume(image));
        } else if self.is_linux() {
            words.extend(["-kernel".to_owned(), Debian::kernel().display().to_string()]);
            words.extend([
                "-initrd".to_owned(),
                image.with_file_name(RAMDISK).display().to_string(),
            ]);
            words.extend(["-append", LINUX].map(str::to_owned));
        } else if self != Self::UBootBootm {
            words.extend(
                ["-kernel", &image.display().to_string(), "-append", bootargs].map(str::to_owned),
            );
        }
        words
    }

    /// Writes the loader's own files next to the `image` that QEMU gets.
    pub fn prepare(self, image: &Path, bootargs: &str) -> Result<()> {
        if self == Self::UefiShell {
            let volume = image.with_file_name(VOLUME);
            std::fs::create_dir(&volume)
                .with_context(|| format!("cannot make the folder {}", volume.display()))?;
            std::fs::copy(image, volume.join("Image.efi")).context("cannot copy the Image")?;
            let line = format!("fs0:\\Image.efi {bootargs}\r\n");
            std::fs::write(volume.join("startup.nsh"), line).context("cannot write startup.nsh")?;
        }
        if self.is_linux() {
            let debian = Debian::fetched()
                .context("Debian's kernel is missing: `cargo xtask interop` fetches it")?;
            let bytes = std::fs::read(image).context("cannot read the Image")?;
            let files = [("Image", bytes.as_slice()), ("bootargs", bootargs.as_bytes())];
            let init = KEXEC.replace("{modules}", &MODULES.join(" "));
            let initrd = image.with_file_name(RAMDISK);
            std::fs::write(&initrd, debian.ramdisk_with_kexec(&init, &files)?)
                .with_context(|| format!("cannot write {}", initrd.display()))?;
        }
        Ok(())
    }

    /// The text to type at the loader's prompt, after empty lines that stop its countdown.
    pub fn typed(self, bootargs: &str, disk: usize) -> Option<String> {
        let commands = match self {
            Self::Qemu | Self::Uefi | Self::UefiShell | Self::LinuxKexec | Self::UefiLinuxKexec => {
                return None;
            }
            Self::UBootBooti => "qfw load $kernel_addr_r $ramdisk_addr_r\n\
                 booti $kernel_addr_r - $fdtcontroladdr\n"
                .to_owned(),
            // Name the configuration: Debian's U-Boot would not take the default, but look for one
            // whose `compatible` matches the machine.
            Self::UBootBootm => format!(
                "setenv bootargs '{bootargs}'\nvirtio scan\nvirtio read $ramdisk_addr_r 0 {:x}\n\
                 bootm $ramdisk_addr_r#conf-1 - $fdtcontroladdr\n",
                disk.div_ceil(SECTOR)
            ),
        };
        Some("\n".repeat(AHEAD) + &commands)
    }
}

/// QEMU's arguments for the FAT volume next to `image`.
///
/// The volume is an NVMe drive, which our kernel does not drive: the kernel restarts from its first
/// block device, and that must be the disk.
pub fn volume(image: &Path) -> Vec<String> {
    let volume = image.with_file_name(VOLUME).display().to_string().replace(',', ",,");
    let drive = format!("if=none,id=volume,format=raw,file=fat:rw:{volume}");
    ["-drive", &drive, "-device", "nvme,drive=volume,serial=volume"].map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_typed_as_it_is_named() {
        for loader in [Loader::Qemu].into_iter().chain(Loader::OTHERS) {
            assert_eq!(loader.to_possible_value().unwrap().get_name(), loader.name());
        }
    }

    #[test]
    fn kernels_need_no_firmware_and_bootm_no_image() {
        let image = Path::new("Image");
        assert_eq!(Loader::Qemu.words(image, "a b"), ["-kernel", "Image", "-append", "a b"]);
        let kexec = Loader::LinuxKexec.words(image, "a b");
        assert!(
            kexec.contains(&"ramdisk".to_owned()) && !kexec.contains(&"Image".to_owned()),
            "{kexec:?}"
        );
        for loader in Loader::OTHERS.into_iter().filter(|loader| loader.firmware().is_some()) {
            let words = loader.words(image, "a");
            assert_eq!(words[0], "-bios");
            let from_fw_cfg =
                matches!(loader, Loader::Uefi | Loader::UBootBooti | Loader::UefiLinuxKexec);
            assert_eq!(words.contains(&"-kernel".to_owned()), from_fw_cfg, "{words:?}");
        }
    }

    #[test]
    fn the_shell_finds_the_image_and_a_line_that_starts_it() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("Image");
        std::fs::write(&image, b"MZ").unwrap();
        Loader::UefiShell.prepare(&image, "a b=1").unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(VOLUME).join(name)).unwrap();
        assert_eq!(read("Image.efi"), b"MZ");
        assert_eq!(read("startup.nsh"), b"fs0:\\Image.efi a b=1\r\n");
    }

    #[test]
    fn bootm_reads_the_whole_disk_and_gets_the_bootargs() {
        let typed = Loader::UBootBootm.typed("a b=1", 1025).unwrap();
        assert!(typed.contains("setenv bootargs 'a b=1'\n") && typed.contains(" 0 3\n"), "{typed}");
        assert_eq!(Loader::Qemu.typed("a", 0), None);
    }
}
