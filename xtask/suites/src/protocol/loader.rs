//! Images for bad loaders: a small loader that QEMU boots, followed by our kernel.
//!
//! Each section of `loaders.S` is a loader. The rustc that builds the kernel assembles it. Refuses
//! a loader name without a section.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use boot::{
    esr::{EC_SHIFT, EC_SMC64},
    image::{FLAGS, FLAGS_AT, IMAGE_SIZE_AT, MAGIC, MAGIC_AT},
    sysreg::{
        ID_FIELD_BITS, cnthctl, cptr, daif, hcr, hcrx, hfg, icc_sre, id_aa64mmfr0, id_aa64mmfr1,
        id_aa64pfr1, mair, sctlr, spsr, vector_length,
    },
};
use object::{Object, ObjectSection};

use harness::kernel_build::{Built, TARGET};

/// Offset of the header field res2, which no loader reads. Here it holds the kernel's offset.
const KERNEL_AT: usize = 32;
/// Offset of the code, after the header.
const CODE_AT: usize = 64;
const TABLE: usize = 0x1000;
const VECTORS: usize = 0x2000;
const FIRMWARE_VECTORS: usize = 0x3000;
const OTHERS: usize = 0x4000;
const NOTHING: usize = 0x10_0000;

/// The kernel's usual offset: the next 2 MiB boundary after the loader.
pub const NEXT_SLOT: usize = 2 << 20;

/// Returns the loader `name` as an Image, with the kernel `distance` bytes after its start.
pub fn image(kernel: &Built, name: &str, distance: usize) -> Result<Vec<u8>> {
    let object = assemble()?;
    let file = object::File::parse(object.as_slice())?;
    let section = |name: &str| {
        let section = file.section_by_name(&format!(".loader.{name}"));
        Ok::<_, anyhow::Error>(
            section.with_context(|| format!("loaders.S has no {name}"))?.data()?.to_vec(),
        )
    };
    let mut image = vec![0; distance];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    // `adr x28, .` and a branch over the header.
    put(0, &0x1000_001c_u32.to_le_bytes());
    put(4, &(0x1400_0000 | ((CODE_AT as u32 - 4) / 4)).to_le_bytes());
    let whole = distance as u64 + kernel.symbol("_image_end")?;
    put(IMAGE_SIZE_AT, &whole.to_le_bytes());
    put(FLAGS_AT, &FLAGS.to_le_bytes());
    put(KERNEL_AT, &(distance as u64).to_le_bytes());
    put(MAGIC_AT, &MAGIC.to_le_bytes());
    put(CODE_AT, &section(name)?);
    put(VECTORS, &section("vectors")?);
    put(FIRMWARE_VECTORS, &section("firmware-vectors")?);
    // Two 1 GiB blocks with AF set: device memory, then inner-shareable RAM.
    for (gib, attributes) in [mair::DEVICE << 2, mair::NORMAL << 2 | 3 << 8].into_iter().enumerate()
    {
        put(TABLE + 8 * gib, &((gib as u64) << 30 | attributes | 1 << 10 | 1).to_le_bytes());
    }
    image.extend(&kernel.image);
    Ok(image)
}

/// SCR_EL3, non-secure and without traps: NS, RES1, HCE, RW, APK, API, EnSCXT, ATA, FGTEn, ECVEn,
/// HXEn, GCSEn, EnTP2, TCR2En, SCTLR2En, PIEn, FGTEn2.
const SCR_OPEN: u64 = 1
    | 3 << 4
    | 1 << 8
    | 1 << 10
    | 3 << 16
    | 0b1111 << 25
    | 3 << 38
    | 1 << 41
    | 0b111 << 43
    | 1 << 59;

/// Returns the constants that loaders.S uses, by name.
fn numbers() -> Vec<(&'static str, u64)> {
    let open = hcr::RW | hcr::APK | hcr::API | hcr::ATA;
    vec![
        ("KERNEL_AT", KERNEL_AT as u64),
        ("TABLE", TABLE as u64),
        ("VECTORS", VECTORS as u64),
        ("FIRMWARE_VECTORS", FIRMWARE_VECTORS as u64),
        ("OTHERS", OTHERS as u64),
        ("NOTHING", NOTHING as u64),
        ("IMAGE_SIZE_AT", IMAGE_SIZE_AT as u64),
        ("ID_FIELD_BITS", ID_FIELD_BITS.into()),
        ("HCX", id_aa64mmfr1::HCX.into()),
        ("FGT", id_aa64mmfr0::FGT.into()),
        ("GCS", id_aa64pfr1::GCS.into()),
        ("DAIF_A", daif::A),
        ("EC_SHIFT", EC_SHIFT),
        // IL: the instruction has 32 bits.
        ("ESR_IL", 1 << 25),
        ("SPSR_AT_EL2_BIT", spsr::AT_EL2.trailing_zeros().into()),
        ("CNTHCTL_OPEN", cnthctl::NVHE),
        ("CNTHCTL_EL1PCEN", 1 << 1),
        ("CPTR_OPEN", cptr::NVHE & !(cptr::TZ | cptr::TSM)),
        ("VECTOR_LONGEST", vector_length::LONGEST),
        ("PCI_BUS_MASTER", 1 << 2),
        ("MAIR", mair::VALUE),
        // T0SZ = 25, no walks through TTBR1, 36 bits of physical address.
        ("TCR_39_BITS", 25 | 1 << 23 | 1 << 32),
        ("SCTLR_M", sctlr::M),
        ("SCTLR_C", sctlr::C),
        ("SCTLR_EL1_MMU_OFF", sctlr::EL1_MMU_OFF),
        ("SPSR_TO_EL1", spsr::TO_EL1),
        ("HCR_OPEN", open),
        ("SPSR_TO_EL2", spsr::DAIF | spsr::EL2H),
        // SPSR.A masks SError.
        ("SPSR_A", 1 << 8),
        ("EC_SMC64", EC_SMC64),
        ("CPU_ON", 0xc400_0003),
        // TSC traps SMC.
        ("HCR_TSC", 1 << 19),
        ("HCR_APK", hcr::APK),
        ("HCR_API", hcr::API),
        ("HCR_ATA", hcr::ATA),
        ("ICC_SRE_ENABLE", icc_sre::SRE_ENABLE),
        // TALL1 and TC trap EL1's CPU interface registers. (QEMU's ICC_SRE_EL2.SRE cannot be
        // cleared.)
        ("ICH_HCR_TRAPS", 1 << 12 | 1 << 10),
        ("HCRX_OPEN", hcrx::MSCEN | hcrx::TCR2EN | hcrx::SCTLR2EN | hcrx::GCSEN),
        ("HCRX_MSCEN", hcrx::MSCEN),
        ("HCRX_TCR2EN", hcrx::TCR2EN),
        ("HFG_OPEN", hfg::SME | hfg::S1PIE | hfg::S1POE | hfg::GCS | hfg::AIE | hfg::THE),
        ("HFG_S1PIE", hfg::S1PIE),
        ("HFG_GCS", hfg::GCS),
        ("SCR_OPEN", SCR_OPEN),
        // HCE.
        ("SCR_HCE", 1 << 8),
        ("SCR_FGTEN", 1 << 27),
        ("SCR_HXEN", 1 << 38),
        ("SCR_ENTP2", 1 << 41),
        ("SCR_FGTEN2", 1 << 59),
        ("HFG_SMPRI", 1 << 54),
        ("GCSCR_RVCHKEN", 1 << 5),
        // ESM and EZ: SME and SVE are not trapped.
        ("CPTR_EL3_OPEN", 1 << 12 | 1 << 8),
        // TFP traps FP; it is the same bit at EL2 and EL3.
        ("CPTR_TFP", 1 << 10),
        ("SMCR_OPEN", vector_length::LONGEST | vector_length::EZT0 | vector_length::FA64),
        // Address of the literal from which QEMU's own boot code, at the start of RAM, loads x0.
        ("STUB_TREE", 0x4000_0018),
        ("CPTR_TZ", cptr::TZ),
        ("CPTR_TSM", cptr::TSM),
        // MDCR_EL2: TPM traps the PMU's registers, TDA those of debug.
        ("MDCR_TPM", 1 << 6),
        ("MDCR_TDA", 1 << 9),
        ("LAST_SLOT_STATUS", 0x0a00_3e00 + 0x70),
        // Command register of PCI 00:01.0 in `virt`'s high ECAM.
        ("FIRST_FUNCTION_COMMAND", 0x40_1000_0000 + (1 << 15) + 4),
    ]
}

/// Assembles loaders.S and returns the object file.
fn assemble() -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("cannot make a folder for the loaders")?;
    let (source, object) = (folder.path().join("loaders.rs"), folder.path().join("loaders.o"));
    let sets: String =
        numbers().iter().map(|(name, value)| format!(".set {name}, {value:#x}\n")).collect();
    let text = format!(
        "#![no_std]\ncore::arch::global_asm!(r##\"{sets}{}\"##, options(raw));\n",
        include_str!("loaders.S")
    );
    std::fs::write(&source, text)?;
    let mut command = Command::new(Path::new(&harness::paths::cargo()).with_file_name("rustc"));
    command.current_dir(harness::paths::root()).args([
        "--edition=2024",
        "--crate-type=lib",
        "--emit=obj",
        "--target",
        TARGET,
    ]);
    command.arg("-o").arg(&object).arg(&source);
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "loaders.S: {}", String::from_utf8_lossy(&output.stderr));
    Ok(std::fs::read(&object)?)
}
