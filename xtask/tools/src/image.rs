//! The verb `image`: writes files that any QEMU can boot, and prints the command.
//!
//! The printed line needs nothing of xtask: no semihosting, no special flag.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use harness::{
    config::Virtio,
    disk,
    kernel_build::{self, Built},
    qemu, setup,
};

/// Write Image, kernel.elf and disk.itb, and print a QEMU line that runs them without xtask
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cargo xtask image
  cargo xtask image --out /tmp/ouroboros
  cargo xtask image --earlycon uart8250,mmio32,0xfe215040")]
pub struct ImageOptions {
    /// The folder to write to [default: ouroboros/image in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The UART to print on before the device tree is read, as Linux's `earlycon=` describes it
    /// [default: none, so that an early failure goes to the failure record alone]
    #[arg(long, value_name = "UART")]
    earlycon: Option<String>,
}

impl ImageOptions {
    /// Runs the verb; returns its exit code.
    pub fn perform(&self) -> Result<u8> {
        setup::check_target()?;
        let out = self
            .out
            .clone()
            .unwrap_or_else(|| harness::paths::target_dir().join("ouroboros").join("image"));
        let mut kernel = kernel_build::build()?;
        if let Some(earlycon) = &self.earlycon {
            kernel = kernel.with_earlycon(earlycon)?;
        }
        write(&kernel, &out).map(|()| 0)
    }
}

/// Writes `Image`, `kernel.elf` and `disk.itb` into `out` and prints the line.
pub fn write(kernel: &Built, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)
        .with_context(|| format!("cannot make the folder {}", out.display()))?;
    let write = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{:>10} bytes  {}", bytes.len(), path.display());
        Ok(path)
    };
    let image = write("Image", &kernel.image)?;
    let elf = std::fs::read(&kernel.elf)
        .with_context(|| format!("cannot read {}", kernel.elf.display()))?;
    write("kernel.elf", &elf)?;
    let disk = write("disk.itb", &disk::of(kernel, false))?;
    println!("\n{}", qemu::shell_line(words(&image, &disk)));
    Ok(())
}

/// The arguments of the printed line. Everything else keeps QEMU's defaults.
pub fn words(image: &Path, disk: &Path) -> Vec<String> {
    let mut words: Vec<String> = [
        qemu::QEMU,
        "-machine",
        "virt,virtualization=on",
        "-cpu",
        "cortex-a72",
        "-nic",
        "none",
        "-nographic",
        "-kernel",
    ]
    .map(str::to_owned)
    .into();
    words.push(image.display().to_string());
    words.extend(qemu::disk(disk, "if=none,id=d0,format=raw,file={disk}", Virtio::Legacy));
    words.extend(["-append", "generations=5"].map(str::to_owned));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_one_that_the_readme_shows() {
        assert_eq!(
            qemu::shell_line(words(Path::new("Image"), Path::new("disk.itb"))),
            "qemu-system-aarch64 -machine virt,virtualization=on -cpu cortex-a72 -nic none \
             -nographic -kernel Image -drive if=none,id=d0,format=raw,file=disk.itb \
             -device virtio-blk-device,drive=d0 -append generations=5"
        );
    }
}
