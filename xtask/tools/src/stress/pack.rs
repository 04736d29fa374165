//! Failed runs as zip files: `--report` packs them, `--repeat` makes one again.
//!
//! The zip file holds the run's folder, with its Image and symbols, and `case.json`: the line that
//! repeats the run, the commit, the kernel and QEMU's version. It works on any clone of the same
//! commit. A file that is not such a zip or lacks a part is refused.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use harness::kernel_build::Built;

use super::tally::{Failure, Tally};

/// The content of `case.json`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Case {
    /// The line that repeats the run.
    pub again: String,
    /// A description of what failed.
    pub why: String,
    /// The commit of the tree, with a `+` if the tree has changes.
    pub commit: String,
    /// The kernel's build id.
    pub kernel: String,
    /// The version of QEMU that it failed on.
    pub qemu: String,
}

const CASE: &str = "case.json";

/// Packs every failure into a file of its own in `folder`; returns the paths.
pub fn pack_all(tally: &Tally, folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    tally.failures.iter().map(|failure| pack(tally, failure, folder)).collect()
}

fn pack(tally: &Tally, failure: &Failure, folder: &Path) -> Result<PathBuf> {
    let run = Path::new(&failure.folder);
    // The name of a run's folder is unique.
    let name = run
        .file_name()
        .map_or_else(|| failure.cell.clone(), |name| name.to_string_lossy().into_owned());
    let path = folder.join(format!("{name}.zip"));
    let written = || -> Result<()> {
        let mut zip = ZipWriter::new(File::create(&path)?);
        // Stored, not deflated: an Image and a log of a few MiB are not worth a compressor.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(true);
        let case = Case {
            again: failure.again.clone(),
            why: failure.why.clone(),
            commit: tally.commit.clone(),
            kernel: tally.kernel.clone(),
            qemu: tally.qemu.clone(),
        };
        let repeat = format!("cargo xtask stress --repeat {name}.zip\n");
        let mut put = |name: &str, bytes: &[u8]| -> Result<()> {
            zip.start_file(name, options)?;
            Ok(zip.write_all(bytes)?)
        };
        put(CASE, serde_json::to_string_pretty(&case)?.as_bytes())?;
        put("repeat", repeat.as_bytes())?;
        for entry in std::fs::read_dir(run)? {
            let entry = entry?;
            put(&entry.file_name().to_string_lossy(), &std::fs::read(entry.path())?)?;
        }
        zip.finish()?;
        Ok(())
    };
    written().with_context(|| format!("cannot pack {} into {}", run.display(), path.display()))?;
    Ok(path)
}

/// Returns a packed run and its kernel, whose ELF it writes into `folder`.
pub fn unpack(path: &Path, folder: &Path) -> Result<(Case, Built)> {
    let read = || -> Result<(Case, Built)> {
        let mut zip = ZipArchive::new(File::open(path)?)?;
        let mut part = |name: &str| -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            zip.by_name(name)
                .with_context(|| format!("it has no {name}"))?
                .read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let case: Case = serde_json::from_slice(&part(CASE)?)
            .with_context(|| format!("its {CASE} has another format"))?;
        let elf = folder.join("kernel.elf");
        std::fs::write(&elf, part(&format!("kernel-{}.elf", case.kernel))?)?;
        let kernel = Built { elf, image: part("Image")?, build_id: case.kernel.clone() };
        Ok((case, kernel))
    };
    read().with_context(|| format!("{} was not packed by `stress --report`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{super::tally::tests::tally, *};

    #[test]
    fn what_was_packed_comes_out_again() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("20261122-el1");
        std::fs::create_dir(&run).unwrap();
        for (name, bytes) in [("Image", "image"), ("kernel-ab.elf", "elf"), ("console.log", "[0]")]
        {
            std::fs::write(run.join(name), bytes).unwrap();
        }
        let failure = Failure {
            again: "cargo xtask stress".into(),
            folder: run.display().to_string(),
            ..Failure::default()
        };
        let packed =
            pack_all(&tally("a", 1, Some(failure)), &folder.path().join("reports")).unwrap();
        let [packed] = packed.as_slice() else { panic!("{packed:?}") };
        assert!(packed.ends_with("20261122-el1.zip"));
        let (case, kernel) = unpack(packed, folder.path()).unwrap();
        assert_eq!(
            (case.again.as_str(), kernel.image.as_slice()),
            ("cargo xtask stress", b"image".as_slice())
        );
        assert_eq!(std::fs::read(kernel.elf).unwrap(), b"elf");

        std::fs::write(packed, "no zip").unwrap();
        assert!(
            format!("{:#}", unpack(packed, folder.path()).unwrap_err())
                .contains("was not packed by `stress --report`")
        );
    }
}
