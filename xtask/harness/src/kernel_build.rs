//! The kernel: built by cargo, then flattened into the Image that a loader takes.
//!
//! - The ELF keeps the symbols; debuggers use it.
//! - The Image holds the loaded bytes, from address 0 of the position-independent link to the last
//!   byte in the file. It does not hold bss and stacks; image_size in its header covers them.
//! - Refused: an ELF that does not begin at 0, and an Image without the header of Linux's arm64
//!   boot protocol.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use boot::{early_console, image::Header, uart::Uart};
use object::{Object, ObjectSegment, ObjectSymbol};

use crate::config::Config;

/// The bare-metal target.
pub const TARGET: &str = "aarch64-unknown-none";

/// The maximum size of the flat Image in bytes.
pub const IMAGE_LIMIT: usize = 320 << 10;

/// Cargo's arguments for building the kernel.
pub fn arguments() -> Vec<String> {
    let build =
        ["build", "--release", "--package", "kernel", "--target", TARGET].map(str::to_owned);
    build.into_iter().chain(remap().into_iter().flatten()).collect()
}

/// A kernel as built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The path of the ELF.
    pub elf: PathBuf,
    /// The flat Image.
    pub image: Vec<u8>,
    /// The ELF's build id, in hexadecimal.
    pub build_id: String,
}

/// Builds the kernel. On failure cargo has printed the reason.
pub fn build() -> Result<Built> {
    build_in(&crate::paths::target_dir(), arguments())
}

/// The target directory of releases: their flags differ, so that they build apart.
pub fn release_dir() -> PathBuf {
    crate::paths::target_dir().join("ouroboros/release")
}

/// Builds the kernel with no path of this host in it, so that the same sources make the same ELF
/// everywhere.
pub fn build_for_release() -> Result<Built> {
    let mut arguments = arguments();
    arguments.extend([
        "--locked".to_owned(),
        "--config".to_owned(),
        format!("target.{TARGET}.rustflags=[{:?}]", remap_root()),
    ]);
    build_in(&release_dir(), arguments)
}

/// The flag that removes the workspace's own folder from debug information.
fn remap_root() -> String {
    format!("--remap-path-prefix={}=/ouroboros", crate::paths::root().display())
}

/// Cargo's arguments that remove this host's folders from a program for a host.
pub fn remap_host() -> Result<[String; 2]> {
    let flags = sources().context("cargo's home has no sources")?.chain([remap_root()]);
    let flags: Vec<_> = flags.map(|flag| format!("{flag:?}")).collect();
    Ok(["--config".into(), format!("build.rustflags=[{}]", flags.join(","))])
}

fn build_in(target_dir: &Path, arguments: Vec<String>) -> Result<Built> {
    let mut command = Command::new(crate::paths::cargo());
    command.current_dir(crate::paths::root()).env("CARGO_TARGET_DIR", target_dir).args(arguments);
    // RUSTFLAGS in the environment would replace the target's flags, which make the Image position
    // independent.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "the kernel does not build; cargo's errors are above");
    read(&elf_in(target_dir))
}

/// Builds the kernel for the machines of qemu.toml: the Image names their UART.
pub fn build_for(config: &Config) -> Result<Built> {
    build()?.with_earlycon(&config.common.earlycon)
}

/// Flags that remove the builder's own folders from the source paths in panic messages, so that the
/// same sources make the same Image everywhere.
fn remap() -> Option<[String; 2]> {
    let flags: Vec<_> = sources()?.map(|flag| format!("{flag:?}")).collect();
    let rustflags = format!("target.{TARGET}.rustflags=[{}]", flags.join(","));
    Some(["--config".into(), rustflags])
}

/// The flags that remove the folders of cargo's registries.
fn sources() -> Option<impl Iterator<Item = String>> {
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .ok()?;
    // One folder for each registry. The lock file's registry is among them: xtask was built from
    // it.
    let sources = std::fs::read_dir(format!("{home}/registry/src")).ok()?;
    let flag =
        |folder: std::fs::DirEntry| format!("--remap-path-prefix={}/=", folder.path().display());
    Some(sources.flatten().map(flag))
}

/// The path of the ELF, once it is built.
pub fn elf() -> PathBuf {
    elf_in(&crate::paths::target_dir())
}

fn elf_in(target_dir: &Path) -> PathBuf {
    target_dir.join(TARGET).join("release").join("kernel")
}

/// Reads a kernel that is built already.
pub fn read(elf: &Path) -> Result<Built> {
    let bytes = std::fs::read(elf)
        .with_context(|| format!("cannot read the kernel's ELF {}", elf.display()))?;
    let of = || format!("{} is not a kernel that can be booted", elf.display());
    let image = flatten(&bytes).with_context(of)?;
    check_header(&image).with_context(of)?;
    let build_id = build_id(&bytes).with_context(of)?;
    Ok(Built { elf: elf.to_owned(), image, build_id })
}

/// Copies the file bytes of each loadable segment to its address; gaps are zero.
fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let file = object::File::parse(elf)?;
    let mut image = Vec::new();
    let mut lowest = u64::MAX;
    for segment in file.segments() {
        let data = segment.data()?;
        lowest = lowest.min(segment.address());
        let start = usize::try_from(segment.address())?;
        let end =
            start.checked_add(data.len()).context("a segment wraps around the address space")?;
        // A kernel linked at a high address would make us allocate that much memory.
        ensure!(
            end <= 1 << 30,
            "a segment is at {start:#x}: link the kernel at 0, it is position independent"
        );
        if !data.is_empty() {
            image.resize(image.len().max(end), 0);
            image[start..end].copy_from_slice(data);
        }
    }
    ensure!(
        lowest == 0,
        "the lowest segment is at {lowest:#x}: link the kernel at 0, where its header is"
    );
    Ok(image)
}

/// Checks for the header of Linux's arm64 boot protocol, with an image_size that covers the file.
fn check_header(image: &[u8]) -> Result<()> {
    let header = Header::parse(image)?;
    Ok(header.check_file(image.len() as u64)?)
}

fn build_id(elf: &[u8]) -> Result<String> {
    let file = object::File::parse(elf)?;
    let id = file.build_id()?.context("there is no build id: link with --build-id")?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Built {
    /// Writes the UART for the time before the device tree is read into the Image.
    pub fn with_earlycon(mut self, earlycon: &str) -> Result<Self> {
        let uart = Uart::parse(earlycon).map_err(|why| anyhow::anyhow!("earlycon: {why}"))?;
        let bytes = uart.to_bytes();
        let place = self.image.get_mut(early_console::OFFSET..);
        let place = place.and_then(|page| page.get_mut(..bytes.len()));
        place.context("the Image is shorter than its first page")?.copy_from_slice(&bytes);
        Ok(self)
    }

    /// The offset in the Image of the symbol `name`; a Rust function by its path,
    /// `kernel::cpus::work::leave`.
    pub fn symbol(&self, name: &str) -> Result<u64> {
        symbol(&self.elf, name)
    }
}

fn symbol(elf: &Path, name: &str) -> Result<u64> {
    let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(bytes.as_slice())
        .with_context(|| format!("{} is not an ELF file", elf.display()))?;
    let is_it = |mangled: &str| {
        mangled == name
            || (name.contains("::") && format!("{:#}", rustc_demangle::demangle(mangled)) == name)
    };
    let mut found = file
        .symbols()
        .filter(|symbol| symbol.name().is_ok_and(is_it))
        .map(|symbol| symbol.address());
    let address = found.next().with_context(|| format!("the kernel has no symbol {name}"))?;
    ensure!(found.all(|other| other == address), "the kernel has more than one {name}");
    Ok(address)
}

/// The link address of the first `ret` at or after the symbol.
pub fn returns(kernel: &Built, name: &str) -> Result<u64> {
    first(kernel, name, 0xd65f_03c0)
}

/// The link address of the first instruction `word` at or after the symbol.
pub fn first(kernel: &Built, name: &str, word: u32) -> Result<u64> {
    let start = kernel.symbol(name)?;
    let mut words = kernel.image[usize::try_from(start)?..].chunks(4);
    let at = words.position(|other| other == word.to_le_bytes());
    Ok(start + at.with_context(|| format!("no instruction {word:#010x} after {name}"))? as u64 * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian AArch64 ELF whose loadable segments are (address, bytes in the file, bytes
    /// in memory).
    fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let half = |elf: &mut Vec<u8>, v: u16| elf.extend(v.to_le_bytes());
        half(&mut elf, 3); // ET_DYN
        half(&mut elf, 183); // EM_AARCH64
        elf.extend(1u32.to_le_bytes());
        for v in [0u64, 64, 0] {
            elf.extend(v.to_le_bytes()); // entry, program headers, section headers
        }
        elf.extend(0u32.to_le_bytes());
        for v in [64, 56, u16::try_from(segments.len()).unwrap(), 64, 0, 0] {
            half(&mut elf, v);
        }
        let mut offset = 64 + 56 * segments.len();
        for (address, data, memory) in segments {
            elf.extend(1u32.to_le_bytes()); // PT_LOAD
            elf.extend(5u32.to_le_bytes());
            for v in [offset as u64, *address, *address, data.len() as u64, *memory, 4096] {
                elf.extend(v.to_le_bytes());
            }
            offset += data.len();
        }
        for (_, data, _) in segments {
            elf.extend_from_slice(data);
        }
        elf
    }

    #[test]
    fn segments_are_at_their_addresses_and_bss_is_left_out() {
        let elf = elf(&[(0, b"text", 4), (16, b"data", 4096)]);
        assert_eq!(flatten(&elf).unwrap(), b"text\0\0\0\0\0\0\0\0\0\0\0\0data");
    }

    #[test]
    fn a_segment_of_bss_alone_adds_nothing() {
        assert_eq!(flatten(&elf(&[(0, b"text", 4), (1 << 20, b"", 4096)])).unwrap(), b"text");
    }

    #[test]
    fn a_kernel_that_does_not_begin_at_zero_is_refused() {
        assert!(flatten(&elf(&[(4096, b"text", 4)])).unwrap_err().to_string().contains("0x1000"));
        assert!(
            flatten(&elf(&[(0xffff_8000_0000_0000, b"text", 4)]))
                .unwrap_err()
                .to_string()
                .contains("link the kernel at 0")
        );
    }

    #[test]
    fn an_absent_symbol_or_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), elf(&[(0, b"text", 4)])).unwrap();
        assert!(symbol(file.path(), "main").unwrap_err().to_string().contains("no symbol main"));
        assert!(
            symbol(Path::new("/nowhere"), "main").unwrap_err().to_string().contains("/nowhere")
        );
    }

    #[test]
    fn an_image_without_a_header_is_refused() {
        assert!(check_header(&[0; 64]).is_err());
        assert!(check_header(&[0; 40]).is_err());
    }
}
