//! Needs of single loaders and test cases, besides the Rust target and QEMU.
//!
//! - `run`, `interop` and `test` install or fetch those of the loaders and cases that were chosen.
//! - A need that cannot be met is a reason to skip: [`Skipped`] names it and says how to mend it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::{
    debian::{Debian, DeviceTrees},
    error::Skipped,
    firmware::{EDK2, U_BOOT},
    packages::Packages,
    setup::{self, Package},
};

/// The programs of [`Need::UBootTools`]. mkimage calls dtc.
const TOOLS: [&str; 3] = ["mkimage", "dumpimage", "dtc"];

/// A need.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Need {
    /// EDK2's firmware.
    Edk2,
    /// U-Boot's firmware.
    UBoot,
    /// mkimage, dumpimage and dtc.
    UBootTools,
    /// Debian's kernel, busybox and kexec.
    Debian,
    /// The device trees of Debian's kernel.
    DeviceTrees,
    /// Files of other packages of Debian.
    Packages(Packages),
}

impl Need {
    /// Every need.
    pub const ALL: [Self; 8] = [
        Self::Edk2,
        Self::UBoot,
        Self::UBootTools,
        Self::Debian,
        Self::DeviceTrees,
        Self::Packages(Packages::ArmQemu),
        Self::Packages(Packages::Xen),
        Self::Packages(Packages::BootManagers),
    ];

    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeviceTrees => DeviceTrees::NAME,
            Self::Packages(packages) => packages.name(),
            _ => self.package().map_or(Debian::NAME, Package::name),
        }
    }

    /// A description of what is there, or `None` if it is missing.
    pub fn found(self) -> Option<String> {
        match self {
            Self::Edk2 => EDK2.found().map(|place| place.display().to_string()),
            Self::UBoot => U_BOOT.found().map(|place| place.display().to_string()),
            Self::UBootTools => TOOLS
                .map(|tool| setup::found(tool).map(|place| place.display().to_string()))
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .map(|places| places.join(", ")),
            Self::Debian => Debian::fetched().map(|debian| debian.release),
            Self::DeviceTrees => DeviceTrees::fetched(None).map(|trees| trees.release),
            Self::Packages(packages) => packages.fetched(),
        }
    }

    /// The files that are tried, after ": ", or nothing if it is fetched.
    pub fn tried(self) -> String {
        match self {
            Self::Edk2 => format!(": {}", EDK2.places()),
            Self::UBoot => format!(": {}", U_BOOT.places()),
            Self::UBootTools => format!(": {}, in PATH", TOOLS.join(", ")),
            Self::Debian | Self::DeviceTrees | Self::Packages(_) => String::new(),
        }
    }

    /// Installs or fetches it if it is missing. The error may be a [`Skipped`].
    pub fn ensure(self, yes: bool) -> Result<()> {
        get(&BTreeSet::from([self]), yes)?.remove(&self).map_or(Ok(()), |lack| Err(lack.into()))
    }

    /// The reason to skip if it is missing, together with `others`.
    pub fn skipped(self, others: &[Package]) -> Skipped {
        let mend = match self.package() {
            Some(package) => setup::line_for(package, others),
            None if self == Self::Debian => {
                "`cargo xtask test` and `cargo xtask interop` fetch it".to_owned()
            }
            None => "`cargo xtask test` fetches it".to_owned(),
        };
        Skipped { lacks: self.name().to_owned(), detail: None, mend }
    }

    /// The software that a package manager installs for it. The files that apt fetches for arm64
    /// come another way.
    fn package(self) -> Option<Package> {
        match self {
            Self::Edk2 => Some(Package::Edk2),
            Self::UBoot => Some(Package::UBoot),
            Self::UBootTools => Some(Package::UBootTools),
            Self::Debian | Self::DeviceTrees | Self::Packages(_) => None,
        }
    }
}

/// Installs and fetches what is missing. Returns what is still missing, each with the reason.
pub fn get(needs: &BTreeSet<Need>, yes: bool) -> Result<BTreeMap<Need, Skipped>> {
    let absent = || needs.iter().copied().filter(|need| need.found().is_none());
    let packages = || absent().filter_map(Need::package).collect::<Vec<_>>();
    let installed = setup::install(&packages(), yes).unwrap_or_else(|error| {
        // The other cases are still worth running.
        eprintln!("{error:#}");
        Vec::new()
    });
    let packages = packages();
    for package in packages.iter().filter(|package| installed.contains(package)) {
        eprintln!("{}: its package does not have it; {}", package.name(), package.by_hand());
    }
    let mut missing = BTreeMap::new();
    for need in absent() {
        let lack = match need {
            Need::Debian => Skipped::part(Debian::get())?.err(),
            Need::DeviceTrees => Skipped::part(DeviceTrees::get(None))?.err(),
            Need::Packages(packages) => Skipped::part(packages.get())?.err(),
            _ => Some(need.skipped(&packages)),
        };
        missing.extend(lack.map(|lack| (need, lack)));
    }
    Ok(missing)
}
