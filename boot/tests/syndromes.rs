//! The syndrome decoder against a second one, the crate `aarch64-esr-decoder`.
//!
//! Tables say which of our words stand for which of theirs. Codes that only one of the two knows
//! are listed one by one, with the Arm ARM's meaning.

use aarch64_esr_decoder::{FieldInfo, decode};
use boot::esr::{Esr, slot_name};
use proptest::prelude::*;

/// Exception classes: EC, our name, and theirs. Neither decoder knows a class that is not here.
const CLASSES: &[(u64, Option<&str>, Option<&str>)] = &[
    (0x00, Some("unknown reason (mostly UNDEFINED)"), Some("Unknown reason")),
    (0x01, Some("WFI or WFE trapped"), Some("Wrapped WF* instruction execution")),
    // Only AArch32 raises these four, 0x0c, 0x11, 0x28 and 0x38.
    (0x03, None, Some("Trapped MCR or MRC access with coproc=0b1111")),
    (0x04, None, Some("Trapped MCRR or MRRC access with coproc=0b1111")),
    (0x05, None, Some("Trapped MCR or MRC access with coproc=0b1110")),
    (0x06, None, Some("Trapped LDC or STC access")),
    (
        0x07,
        Some("SVE, SIMD or floating point trapped"),
        Some("Trapped access to SVE, Advanced SIMD or floating point"),
    ),
    // FEAT_PAuth: HCR_EL2.API or SCR_EL3.API.
    (0x09, Some("pointer authentication trapped"), None),
    (
        0x0a,
        Some("an instruction trapped"),
        Some("Trapped execution of an LD64B, ST64B, ST64BV, or ST64BV0 instruction"),
    ),
    (0x0c, None, Some("Trapped MRRC access with (coproc==0b1110)")),
    (0x0d, Some("branch target exception"), Some("Branch Target Exception")),
    (0x0e, Some("illegal execution state"), Some("Illegal Execution state")),
    (0x11, None, Some("SVC instruction execution in AArch32 state")),
    // FEAT_SYSREG128 and FEAT_SYSINSTR128.
    (0x14, Some("128-bit system register access trapped"), None),
    (0x15, Some("SVC"), Some("SVC instruction execution in AArch64 state")),
    (0x16, Some("HVC"), Some("HVC instruction execution in AArch64 state")),
    (0x17, Some("SMC trapped"), Some("SMC instruction execution in AArch64 state")),
    (
        0x18,
        Some("system register access trapped"),
        Some("Trapped MSR, MRS or System instruction execution in AArch64 state"),
    ),
    (
        0x19,
        Some("SVE trapped"),
        Some(
            "Access to SVE functionality trapped as a result of CPACR_EL1.ZEN, CPTR_EL2.ZEN, \
             CPTR_EL2.TZ, or CPTR_EL3.EZ",
        ),
    ),
    // FEAT_FGT or FEAT_NV.
    (0x1a, Some("ERET trapped"), None),
    // FEAT_TME.
    (0x1b, Some("TSTART trapped"), None),
    (
        0x1c,
        Some("pointer authentication failed"),
        Some("Exception from a Pointer Authentication instruction authentication failure"),
    ),
    // FEAT_SME.
    (0x1d, Some("SME trapped"), None),
    (
        0x20,
        Some("instruction abort, lower level"),
        Some("Instruction Abort from a lower Exception level"),
    ),
    (
        0x21,
        Some("instruction abort, same level"),
        Some("Instruction Abort taken without a change in Exception level"),
    ),
    (0x22, Some("PC misaligned"), Some("PC alignment fault exception")),
    (0x24, Some("data abort, lower level"), Some("Data Abort from a lower Exception level")),
    (
        0x25,
        Some("data abort, same level"),
        Some("Data Abort taken without a change in Exception level"),
    ),
    (0x26, Some("SP misaligned"), Some("SP alignment fault exception")),
    // FEAT_MOPS.
    (0x27, Some("memory copy or set exception"), None),
    (0x28, None, Some("Trapped floating-point exception taken from AArch32 state")),
    (
        0x2c,
        Some("floating point exception"),
        Some("Trapped floating-point exception taken from AArch64 state"),
    ),
    // FEAT_GCS.
    (0x2d, Some("guarded control stack exception"), None),
    (0x2f, Some("SError"), Some("SError interrupt")),
    (
        0x30,
        Some("breakpoint, lower level"),
        Some("Breakpoint exception from a lower Exception level"),
    ),
    (
        0x31,
        Some("breakpoint, same level"),
        Some("Breakpoint exception taken without a change in Exception level"),
    ),
    (
        0x32,
        Some("single step, lower level"),
        Some("Software Step exception from a lower Exception level"),
    ),
    (
        0x33,
        Some("single step, same level"),
        Some("Software Step exception taken without a change in Exception level"),
    ),
    (
        0x34,
        Some("watchpoint, lower level"),
        Some("Watchpoint exception from a lower Exception level"),
    ),
    (
        0x35,
        Some("watchpoint, same level"),
        Some("Watchpoint exception taken without a change in Exception level"),
    ),
    (0x38, None, Some("BKPT instruction execution in AArch32 state")),
    (0x3c, Some("BRK"), Some("BRK instruction execution in AArch64 state")),
];

/// Kinds of abort: our words, and how their text for DFSC and IFSC begins.
const FAULTS: &[(&str, &str)] = &[
    ("address size fault", "Address size fault, level"),
    ("translation fault", "Translation fault, level"),
    ("access flag fault", "Access flag fault, level"),
    ("permission fault", "Permission fault, level"),
    ("external abort", "Synchronous External abort, not on translation table walk"),
    ("external abort on the walk", "Synchronous External abort on translation table walk"),
    ("tag check fault", "Synchronous Tag Check Fault."),
    ("parity or ECC error", "Synchronous parity or ECC error on memory access, not on"),
    (
        "parity or ECC error on the walk",
        "Synchronous parity or ECC error on memory access on translation table walk",
    ),
    ("alignment fault", "Alignment fault."),
    ("granule protection fault", "Granule Protection Fault, not on"),
    ("granule protection fault on the walk", "Granule Protection Fault on translation table walk"),
    ("TLB conflict", "TLB conflict abort."),
    ("unsupported hardware update of a descriptor", "Unsupported atomic hardware update fault."),
    ("lockdown fault", "IMPLEMENTATION DEFINED fault (Lockdown)."),
    (
        "exclusive or atomic access to memory that has none",
        "IMPLEMENTATION DEFINED fault (Unsupported Exclusive or Atomic access).",
    ),
];

/// The codes of level -2 (FEAT_D128), which their decoder does not know.
const LEVEL_MINUS_2: &[(u64, &str)] = &[
    (0x12, "external abort on the walk"),
    (0x22, "granule protection fault on the walk"),
    (0x2a, "translation fault"),
    (0x2c, "address size fault"),
];

const RESERVED: (&str, Option<i8>) = ("fault of a reserved code", None);

/// Returns the syndrome of class `ec` with `iss`, for a 32-bit instruction.
fn syndrome(ec: u64, iss: u64) -> u64 {
    ec << 26 | 1 << 25 | iss
}

/// Returns the field `name` of their decoding, or `None` if they refuse the syndrome.
fn theirs(esr: u64, name: &str) -> Option<FieldInfo> {
    let fields = decode(esr).ok()?;
    let inner = fields.iter().flat_map(|field| &field.subfields);
    Some(fields.iter().chain(inner).find(|field| field.name == name)?.clone())
}

/// Returns the value of that field, in a syndrome that they decode.
fn value(esr: u64, name: &str) -> u64 {
    theirs(esr, name).unwrap_or_else(|| panic!("they have no {name} in {esr:#x}")).value
}

/// Returns the kind and level of an abort with this fault status code, in our words, by theirs.
fn fault(code: u64) -> (&'static str, Option<i8>) {
    let Some(text) = theirs(syndrome(0x25, code), "DFSC").map(|field| field.description.unwrap())
    else {
        let minus_2 = LEVEL_MINUS_2.iter().find(|(theirs, _)| *theirs == code);
        return minus_2.map_or(RESERVED, |(_, kind)| (kind, Some(-2)));
    };
    let mut kinds = FAULTS.iter().filter(|(_, theirs)| text.starts_with(theirs));
    let (Some((kind, _)), None) = (kinds.next(), kinds.next()) else { panic!("{text}") };
    let level = text.split_once("level ").map(|(_, rest)| {
        rest.split(['.', ' ']).next().and_then(|level| level.parse().ok()).expect("a level")
    });
    (kind, level)
}

#[test]
fn each_class_has_the_name_that_stands_for_theirs() {
    for ec in 0..64 {
        // Debug exceptions have one valid fault status code.
        let iss = if (0x30..=0x35).contains(&ec) { 0x22 } else { 0 };
        let esr = syndrome(ec, iss);
        let (ours, wanted) = CLASSES
            .iter()
            .find(|(class, ..)| *class == ec)
            .map_or((None, None), |(_, ours, theirs)| (*ours, *theirs));
        assert_eq!(Esr(esr).ec(), ec);
        assert_eq!(Esr(esr).class(), ours, "EC {ec:#x}");
        let theirs = theirs(esr, "EC").map(|field| field.description.unwrap());
        assert_eq!(theirs.as_deref(), wanted, "EC {ec:#x}");
        match ours {
            Some(name) => assert!(Esr(esr).to_string().starts_with(name)),
            None => {
                assert_eq!(Esr(esr).to_string(), format!("exception class {ec:#x}, ISS {iss:#x}"))
            }
        }
    }
}

#[test]
fn each_fault_status_code_is_the_same_kind_at_the_same_level() {
    for code in 0..64 {
        for ec in [0x20, 0x21, 0x24, 0x25] {
            let esr = Esr(syndrome(ec, code));
            assert!(esr.is_abort());
            assert_eq!(esr.fault(), Some(fault(code)), "EC {ec:#x}, code {code:#x}");
        }
    }
    for ec in (0..64).filter(|ec| ![0x20, 0x21, 0x24, 0x25].contains(ec)) {
        assert!(!Esr(syndrome(ec, 0)).is_abort(), "EC {ec:#x}");
        assert_eq!(Esr(syndrome(ec, 0)).fault(), None, "EC {ec:#x}");
    }
}

#[test]
fn every_abort_is_the_sentence_that_their_fields_make() {
    for ec in [0x20, 0x21, 0x24, 0x25] {
        let (fetch, name) = (ec < 0x24, Esr(syndrome(ec, 0)).class().unwrap());
        // Each fault status code with each combination of FnV, EA, CM, S1PTW and WnR.
        for iss in (0..0x800).step_by(if cfg!(miri) { 97 } else { 1 }) {
            // CM and WnR are RES0 in an instruction abort: they refuse them, and we ignore them.
            let esr = syndrome(ec, if fetch { iss & !(1 << 8 | 1 << 6) } else { iss });
            let (kind, level) = fault(iss & 0x3f);
            // They refuse the whole syndrome if they do not know the code: ask with one they know.
            let known = esr & !0x3f;
            let far_not_valid = value(known, "FnV") == 1 && iss & 0x3f == 0x10;
            let write = !fetch && value(known, "WnR") == 1;
            let access = match fetch {
                true => "fetch",
                false if value(known, "CM") == 1 => "maintenance",
                false if write => "write",
                false => "read",
            };
            let wanted = [
                format!("{name}: {kind}"),
                level.map_or(String::new(), |level| format!(" at level {level}")),
                format!(" on a {access}").replace("a maintenance", "maintenance"),
                match value(known, "S1PTW") {
                    1 => ", at stage 2 for the walk of stage 1".to_owned(),
                    _ => String::new(),
                },
                if far_not_valid { ", FAR not valid" } else { "" }.to_owned(),
            ];
            let ours = Esr(syndrome(ec, iss));
            assert_eq!(ours.to_string(), wanted.concat(), "{:#x}", ours.0);
            assert_eq!(ours.is_write(), write, "{:#x}", ours.0);
            assert_eq!(ours.far_not_valid(), far_not_valid, "{:#x}", ours.0);
        }
    }
}

#[test]
fn an_error_that_the_cpu_defines_is_called_so() {
    let ours = Esr(syndrome(0x2f, 0x1ab_cdef)).to_string();
    assert_eq!(ours, "SError, ISS 0x1abcdef as this CPU defines it");
    assert_eq!(value(syndrome(0x2f, 0x1ab_cdef), "IDS"), 1);
    let ours = Esr(syndrome(0x2f, 0xc11)).to_string();
    assert_eq!(ours, "SError, ISS 0xc11");
    assert_eq!(value(syndrome(0x2f, 0xc11), "IDS"), 0);
}

#[test]
fn what_is_no_abort_is_no_write_and_has_a_valid_far() {
    for ec in [0x15, 0x2f, 0x3c] {
        let esr = Esr(syndrome(ec, 1 << 10 | 1 << 6 | 0x10));
        assert!(!esr.is_write() && !esr.far_not_valid(), "EC {ec:#x}");
    }
    // WnR is RES0 in an instruction abort.
    assert!(!Esr(syndrome(0x21, 1 << 6)).is_write());
    // A call's immediate may look like FnV.
    assert_eq!(Esr(syndrome(0x16, 0x410)).to_string(), "HVC #0x410");
}

#[test]
fn slots_are_four_kinds_at_four_places() {
    let places =
        ["current level with SP_EL0", "current level", "lower level", "lower level in AArch32"];
    let kinds = ["synchronous", "IRQ", "FIQ", "SError"];
    for (slot, place) in (0..).step_by(4).zip(places) {
        for (slot, kind) in (slot..).zip(kinds) {
            assert_eq!(slot_name(slot), format!("{kind}, {place}"));
        }
    }
    assert_eq!(slot_name(16), "no slot of a vector table");
}

proptest! {
    // Miri has no current directory to keep failures in.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 16 } else { 256 })
    })]

    #[test]
    fn a_trapped_register_access_has_the_same_fields(iss in 0_u64..1 << 22) {
        let esr = syndrome(0x18, iss);
        let [op0, op1, crn, crm, op2, rt, read] =
            ["Op0", "Op1", "CRn", "CRm", "Op2", "Rt", "Direction"].map(|name| value(esr, name));
        let access = if read == 1 { "read of" } else { "write to" };
        prop_assert_eq!(
            Esr(esr).to_string(),
            format!(
                "system register access trapped: {access} S{op0}_{op1}_C{crn}_C{crm}_{op2} with \
                 Rt = {rt}"
            )
        );
    }

    #[test]
    fn an_immediate_is_the_same(class in 0_usize..4, immediate: u16) {
        let (ec, name, field) =
            [(0x15, "SVC", "imm16"), (0x16, "HVC", "imm16"), (0x17, "SMC trapped", "imm16"),
             (0x3c, "BRK", "Comment")][class];
        let esr = syndrome(ec, immediate.into());
        prop_assert_eq!(Esr(esr).to_string(), format!("{name} #{:#x}", value(esr, field)));
    }

    #[test]
    fn a_trapped_wait_is_the_same(trapped in 0_u64..4, register in 0_u64..32, valid in 0_u64..2) {
        let esr = syndrome(0x01, register << 5 | valid << 2 | trapped);
        let theirs = theirs(esr, "TI").unwrap().description.unwrap();
        let (theirs, _) = theirs.split_once(' ').unwrap();
        prop_assert_eq!(Esr(esr).to_string(), format!("WFI or WFE trapped ({theirs})"));
    }

    #[test]
    fn a_branch_type_is_the_same(branch_type in 0_u64..4) {
        let esr = syndrome(0x0d, branch_type);
        prop_assert_eq!(
            Esr(esr).to_string(),
            format!("branch target exception, BTYPE {}", value(esr, "BTYPE"))
        );
    }

    #[test]
    fn class_and_details_are_their_fields_of_any_syndrome(esr in 0_u64..1 << 37) {
        prop_assert_eq!(Esr(esr).ec(), esr >> 26 & 0x3f);
        prop_assert_eq!(Esr(esr).iss(), esr & 0x1ff_ffff);
    }
}
