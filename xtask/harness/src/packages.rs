//! Files of Debian's arm64 packages that single test cases need: fetched with apt once and kept.
//!
//! Only the files that a case needs are kept, in one folder for each purpose.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    apt::{Apt, Tree},
    cpio::Archive,
};

/// A purpose, and the packages for it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Packages {
    /// QEMU for an arm64 host, which runs inside of a guest under KVM.
    ArmQemu,
    /// The hypervisor Xen.
    Xen,
    /// Boot managers for UEFI: GRUB, systemd-boot and systemd-stub.
    BootManagers,
}

/// The file of [`Packages::Xen`].
pub const XEN: &str = "xen";
/// GRUB, with all modules in one file.
pub const GRUB: &str = "grubaa64.efi";
/// systemd's boot manager.
pub const SYSTEMD_BOOT: &str = "systemd-bootaa64.efi";
/// systemd's stub, which starts a kernel that is in the same file.
pub const SYSTEMD_STUB: &str = "linuxaa64.efi.stub";

/// The file whose presence says that all the others are there.
const RELEASE: &str = "release";
/// The folder of the libraries that a program is linked to.
const LIBRARIES: &str = "lib";
/// The program of [`Packages::ArmQemu`].
const QEMU: &str = "qemu-system-aarch64";

impl Packages {
    /// The name for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ArmQemu => "Debian's arm64 QEMU",
            Self::Xen => "Debian's arm64 Xen",
            Self::BootManagers => "Debian's arm64 GRUB and systemd-boot",
        }
    }

    fn folder(self) -> PathBuf {
        let name = match self {
            Self::ArmQemu => "qemu",
            Self::Xen => "xen",
            Self::BootManagers => "boot-managers",
        };
        crate::paths::target_dir().join("ouroboros").join("packages").join(name)
    }

    /// The packages' versions, if an earlier run fetched the files.
    pub fn fetched(self) -> Option<String> {
        let release = fs::read_to_string(self.folder().join(RELEASE)).ok()?;
        Some(release.trim().to_owned())
    }

    /// Fetches the files unless an earlier run did.
    pub fn get(self) -> Result<()> {
        if self.fetched().is_some() {
            return Ok(());
        }
        let folder = self.folder();
        fs::create_dir_all(folder.join(LIBRARIES))
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        eprintln!("fetching {} into {}", self.name(), folder.display());
        // apt's downloads. Dropping `work` removes them, also after an error.
        let work = tempfile::tempdir_in(&folder).context("cannot make a folder for apt")?;
        let apt = Apt::new(work.path(), self.name(), "arm64", None)?;
        // The name of the hypervisor's package and that of its file have the version.
        let mut version = String::new();
        match self {
            Self::ArmQemu => apt.download_with_dependencies(&["qemu-system-arm"])?,
            Self::Xen => {
                version = apt.dependency("xen-system-arm64", "xen-hypervisor-")?;
                apt.download(&[&format!("xen-hypervisor-{version}")])?;
            }
            Self::BootManagers => apt.download(&["grub-efi-arm64-bin", "systemd-boot-efi"])?,
        }
        let tree = work.path().join("tree");
        let mut unpacked = apt.unpack(&tree)?;
        let tree = Tree::below(&tree);
        let write = |to: &str, bytes: &[u8]| {
            fs::write(folder.join(to), bytes).with_context(|| format!("cannot write {to}"))
        };
        match self {
            Self::ArmQemu => {
                let program = tree.read(&format!("bin/{QEMU}"))?;
                write(QEMU, &program)?;
                for (name, bytes) in tree.libraries(&program)? {
                    write(&format!("{LIBRARIES}/{name}"), &bytes)?;
                }
                unpacked.retain(|(name, _)| name == "qemu-system-arm");
            }
            Self::Xen => write(XEN, &tree.read(&format!("boot/xen-{version}"))?)?,
            Self::BootManagers => {
                for name in [GRUB, SYSTEMD_BOOT, SYSTEMD_STUB] {
                    write(name, &tree.read(name)?)?;
                }
            }
        }
        let unpacked: Vec<_> =
            unpacked.iter().map(|(name, version)| format!("{name} {version}")).collect();
        // Written last.
        write(RELEASE, (unpacked.join(", ") + "\n").as_bytes())
    }

    /// Returns a file.
    pub fn read(self, name: &str) -> Result<Vec<u8>> {
        read(&self.folder().join(name))
    }

    /// Adds the QEMU of [`Packages::ArmQemu`] and its libraries to an initrd.
    pub fn add_qemu(archive: &mut Archive) -> Result<()> {
        let folder = Self::ArmQemu.folder();
        archive.program(&format!("bin/{QEMU}"), &read(&folder.join(QEMU))?);
        archive.folder("lib");
        let listed =
            fs::read_dir(folder.join(LIBRARIES)).context("cannot list QEMU's libraries")?;
        for entry in listed {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let bytes = read(&folder.join(LIBRARIES).join(&name))?;
            archive.program(&format!("lib/{name}"), &bytes);
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| {
        format!("cannot read {}; delete its folder to fetch it again", path.display())
    })
}
