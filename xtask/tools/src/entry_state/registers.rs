//! All registers of a stopped CPU, by the names of the Arm ARM.
//!
//! QEMU describes its system registers to a debugger by its own names, and some lack the exception
//! level of the Arm ARM's name. QEMU shows each register's own value, past the redirection that
//! HCR_EL2.E2H makes for instructions: `SCTLR_EL1` is EL1's, whatever an MSR of that name would
//! reach. An alias such as `SCTLR_EL12` must therefore equal its register, and is left out. A QEMU
//! that shows another value is refused.
//!
//! Also left out:
//!
//! - state that QEMU does not store: counters, the GIC's CPU interface, registers that are views of
//!   others;
//! - EL3 registers, because these machines have no EL3;
//! - vector registers, of which the protocol says nothing.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use harness::postmortem::Gdb;

/// QEMU's names without an exception level, and the Arm ARM's names.
const SHORT: [(&str, &str); 8] = [
    ("AIDR", "AIDR_EL1"),
    ("AMAIR0", "AMAIR_EL1"),
    ("CLIDR", "CLIDR_EL1"),
    ("CNTKCTL", "CNTKCTL_EL1"),
    ("CPACR", "CPACR_EL1"),
    ("CSSELR", "CSSELR_EL1"),
    ("SCTLR", "SCTLR_EL1"),
    ("VBAR", "VBAR_EL1"),
];

/// The fields of QEMU's PSTATE that an MRS reads by their own names; [`REST`] is the remainder.
const PSTATE: [(&str, u64); 4] =
    [("NZCV", 0xf << 28), ("DAIF", 0xf << 6), ("CurrentEL", 0b11 << 2), ("SPSel", 1)];
const REST: &str = "PSTATE";

/// Read-only registers that identify the CPU. They are compared too, and shown only if they differ.
const IDENTIFICATION: [&str; 14] = [
    "AIDR_EL1",
    "CBAR_EL1",
    "CLIDR_EL1",
    "CTR_EL0",
    "ERRIDR_EL1",
    "LORID_EL1",
    "MDRAR_EL1",
    "MIDR_EL1",
    "PMCEID0_EL0",
    "PMCEID1_EL0",
    "PMMIR_EL1",
    "REVIDR_EL1",
    "RVBAR_EL2",
    "SMIDR_EL1",
];

/// Register values by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Registers(pub BTreeMap<String, u64>);

impl Registers {
    /// Reads the registers of the selected CPU.
    pub fn read(gdb: &mut Gdb) -> Result<Self> {
        let mut found = Vec::new();
        for name in gdb.names().into_iter().filter(|name| is_ours(name)) {
            let value =
                gdb.register(&[&name])?.with_context(|| format!("{name} has more than 64 bits"))?;
            found.push((name, value));
        }
        Self::named(found)
    }

    fn named(found: Vec<(String, u64)>) -> Result<Self> {
        let mut named = BTreeMap::new();
        for (name, value) in found {
            if name == "cpsr" {
                named.extend(PSTATE.map(|(field, bits)| (field.to_owned(), value & bits)));
                let rest = PSTATE.iter().fold(value, |rest, (_, bits)| rest & !bits);
                named.insert(REST.to_owned(), rest);
                continue;
            }
            let short = SHORT.iter().find(|(short, _)| *short == name);
            named.insert(short.map_or(name, |(_, full)| (*full).to_owned()), value);
        }
        for (alias, value) in named.clone() {
            let Some(of) = aliased(&alias) else { continue };
            let own = named.get(&of).with_context(|| format!("QEMU has {alias} and no {of}"))?;
            ensure!(
                value == *own,
                "QEMU shows {alias} as {value:#x} and {of} as {own:#x}: which is EL1's?"
            );
            named.remove(&alias);
        }
        Ok(Self(named))
    }
}

/// Reports whether a register identifies the CPU.
pub fn is_identification(name: &str) -> bool {
    ["ID_", "RES_0_", "MVFR"].iter().any(|prefix| name.starts_with(prefix))
        || IDENTIFICATION.contains(&name)
}

/// Reports whether the comparison covers a register of the gdb stub's description.
///
/// The stub writes general registers and PSTATE in lower case, system registers in upper case.
fn is_ours(name: &str) -> bool {
    let general = name.strip_prefix('x').is_some_and(|number| number.parse::<u8>().is_ok());
    let el3 = name.ends_with("_EL3") || name.starts_with("CNTPS_");
    general
        || matches!(name, "sp" | "cpsr")
        || (name.starts_with(|sign: char| sign.is_ascii_uppercase()) && !el3)
}

/// Returns the register that an E2H alias names.
fn aliased(name: &str) -> Option<String> {
    let of = |suffix, own| name.strip_suffix(suffix).map(|stem| format!("{stem}{own}"));
    of("_EL12", "_EL1").or_else(|| of("_EL02", "_EL0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(found: &[(&str, u64)]) -> Result<Registers> {
        Registers::named(found.iter().map(|&(name, value)| (name.to_owned(), value)).collect())
    }

    #[test]
    fn pstate_is_its_fields_and_short_names_are_long() {
        let Registers(found) = named(&[("cpsr", 0x4000_07c9), ("SCTLR", 1), ("x0", 2)]).unwrap();
        let expected = [
            ("CurrentEL", 8),
            ("DAIF", 0x3c0),
            ("NZCV", 0x4000_0000),
            ("PSTATE", 0x400),
            ("SCTLR_EL1", 1),
            ("SPSel", 1),
            ("x0", 2),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn an_alias_that_is_not_its_register_is_refused() {
        let Registers(found) =
            named(&[("VBAR", 1), ("VBAR_EL12", 1), ("CNTV_CTL_EL0", 0), ("CNTV_CTL_EL02", 0)])
                .unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ["CNTV_CTL_EL0", "VBAR_EL1"]);
        assert!(
            named(&[("VBAR", 1), ("VBAR_EL12", 2)])
                .unwrap_err()
                .to_string()
                .contains("which is EL1's")
        );
        assert!(named(&[("VBAR_EL12", 2)]).is_err());
    }

    #[test]
    fn vectors_and_el3_are_left_out() {
        for (name, ours) in [
            ("x30", true),
            ("sp", true),
            ("cpsr", true),
            ("HCR_EL2", true),
            ("FPCR", true),
            ("pc", false),
            ("v0", false),
            ("vg", false),
            ("fpcr", false),
            ("MAIR_EL3", false),
            ("CNTPS_CTL_EL1", false),
        ] {
            assert_eq!(is_ours(name), ours, "{name}");
        }
        assert!(
            is_identification("ID_AA64PFR0_EL1")
                && is_identification("CTR_EL0")
                && !is_identification("VPIDR_EL2")
        );
    }
}
