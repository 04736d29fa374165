//! Decoders for raw values: PSTATE, control registers, the guest's fatal lines.
//!
//! The post-mortem uses them, and the console for each fatal line. The decoder of ESR is in
//! `boot`, because the kernel prints it too.

use boot::{
    esr::{Esr, slot_name},
    marker,
    sysreg::{hcr, sctlr},
};

use super::symbols::Symbols;

/// Returns the exception level in a PSTATE or SPSR: M\[3:2\].
pub fn level(pstate: u64) -> u64 {
    pstate >> 2 & 3
}

/// Decodes a PSTATE (gdb's `cpsr`) or SPSR: the level with its stack pointer, the masks, and
/// anything unusual.
pub fn pstate(value: u64) -> String {
    if value & 1 << 4 != 0 {
        return format!("AArch32, mode {:#x}", value & 0x1f);
    }
    let masked: String = [(9, " D"), (8, " A"), (7, " I"), (6, " F")]
        .iter()
        .map(|&(bit, name)| if value & 1 << bit != 0 { name } else { "" })
        .collect();
    let masked = if masked.is_empty() { " nothing" } else { &masked };
    let illegal = if value & 1 << 20 != 0 {
        ", IL set: any instruction is an illegal state exception"
    } else {
        ""
    };
    format!(
        "EL{}{}, masked:{masked}{illegal}",
        level(value),
        if value & 1 == 1 { "h" } else { "t" }
    )
}

/// Decodes a SCTLR_ELx: MMU, caches, WXN.
pub fn sctlr(value: u64) -> String {
    let names =
        [(sctlr::M, "MMU"), (sctlr::C, "D-cache"), (sctlr::I, "I-cache"), (sctlr::WXN, "WXN")];
    names
        .map(|(bit, name)| format!("{name} {}", if value & bit == 0 { "off" } else { "on" }))
        .join(", ")
}

/// Decodes HCR_EL2: which kind of EL2 this is, and whether stage 2 is on.
pub fn hcr(value: u64) -> String {
    let host = match (value & hcr::E2H != 0, value & hcr::TGE != 0) {
        (true, true) => "VHE host (E2H, TGE)",
        (true, false) => "E2H without TGE",
        (false, true) => "TGE without E2H",
        (false, false) => "nVHE",
    };
    format!("{host}, stage 2 {}", if value & 1 == 0 { "off" } else { "on" })
}

/// Names an instruction at which CPUs hang; `None` for any other.
pub fn instruction(word: u32) -> Option<String> {
    Some(match word {
        0x1400_0000 => "b .".into(),
        0xd503_205f => "wfe".into(),
        0xd503_207f => "wfi".into(),
        0xd69f_03e0 => "eret".into(),
        0x0000_0000 => "udf #0: zeroed memory".into(),
        _ if word & 0xffe0_001f == 0xd400_0002 => format!("hvc #{:#x}", word >> 5 & 0xffff),
        _ if word & 0xffe0_001f == 0xd400_0003 => format!("smc #{:#x}", word >> 5 & 0xffff),
        _ => return None,
    })
}

/// Decodes the registers in an fatal line; `None` if the line is no fatal line or has none.
///
/// The line is `!! ` and text, then `key=value` pairs with hexadecimal values; a log line's prefix
/// may precede it. The keys are `slot`, `esr`, `elr`, `far`, `spsr`, and `base`, the address at
/// which the image ran; others are ignored.
pub fn describe_exception(line: &str, symbols: &Symbols) -> Option<String> {
    let (_, said) = line.split_once(marker::FATAL)?;
    let value = |key: &str| -> Option<u64> {
        let pairs = said.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        let (_, digits) = pairs.into_iter().find(|&(name, _)| name == key)?;
        let digits = digits.trim_end_matches([',', '.']);
        u64::from_str_radix(digits.strip_prefix("0x").unwrap_or(digits), 16).ok()
    };
    let mut words = Vec::new();
    if let Some(slot) = value("slot") {
        words.push(format!("slot {slot}, {}", slot_name(slot)));
    }
    if let Some(esr) = value("esr") {
        words.push(Esr(esr).to_string());
    }
    if let Some(elr) = value("elr") {
        let name = value("base").and_then(|base| symbols.name(elr.checked_sub(base)?));
        words.push(
            name.map_or_else(|| format!("at {elr:#x}"), |name| format!("at {name} ({elr:#x})")),
        );
    }
    if let Some(far) =
        value("far").filter(|_| value("esr").is_none_or(|esr| !Esr(esr).far_not_valid()))
    {
        words.push(format!("FAR {far:#x}"));
    }
    if let Some(spsr) = value("spsr") {
        words.push(format!("from {}", pstate(spsr)));
    }
    (!words.is_empty()).then(|| words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pstate_says_level_and_masks() {
        assert_eq!(pstate(0x4000_03c9), "EL2h, masked: D A I F");
        assert_eq!(pstate(0x3c5), "EL1h, masked: D A I F");
        assert_eq!(pstate(0x8000_0084), "EL1t, masked: I");
        assert_eq!(pstate(0x5), "EL1h, masked: nothing");
        assert_eq!(
            pstate(0x10_03c9),
            "EL2h, masked: D A I F, IL set: any instruction is an illegal state exception"
        );
        assert_eq!(pstate(0x1d3), "AArch32, mode 0x13");
        assert_eq!([level(0x3c9), level(0x3c5), level(0x3c0)], [2, 1, 0]);
    }

    #[test]
    fn sctlr_says_who_translates_and_caches() {
        assert_eq!(sctlr(0x30c5_0830), "MMU off, D-cache off, I-cache off, WXN off");
        assert_eq!(sctlr(0x30d0_0805 | 1 << 12), "MMU on, D-cache on, I-cache on, WXN off");
        assert_eq!(sctlr(0x30d8_1801), "MMU on, D-cache off, I-cache on, WXN on");
    }

    #[test]
    fn hcr_says_which_el2_it_is() {
        assert_eq!(hcr(0x8000_0000), "nVHE, stage 2 off");
        assert_eq!(hcr(0x4_8800_0000), "VHE host (E2H, TGE), stage 2 off");
        assert_eq!(hcr(0x8000_0001), "nVHE, stage 2 on");
    }

    #[test]
    fn instructions_that_wait_have_names() {
        assert_eq!(instruction(0x1400_0000).as_deref(), Some("b ."));
        assert_eq!(instruction(0xd400_0002).as_deref(), Some("hvc #0x0"));
        assert_eq!(instruction(0xd400_0023).as_deref(), Some("smc #0x1"));
        assert_eq!(instruction(0xd280_00e1), None);
    }

    #[test]
    fn a_fatal_line_becomes_a_sentence() {
        let symbols = Symbols::from_names(&[(0x1000, "el2_setup")]);
        let line = "[2] !! exception slot=0000000000000004 esr=0000000096000045 \
                    elr=0000000040201014 far=00007ff0dead0000 \
                    spsr=00000000000003c9 base=0000000040200000";
        assert_eq!(
            describe_exception(line, &symbols).as_deref(),
            Some(
                "slot 4, synchronous, current level; data abort, same level: \
                 translation fault at level 1 on a write; \
                 at el2_setup+0x14 (0x40201014); FAR 0x7ff0dead0000; from EL2h, masked: D A I F"
            )
        );
        // An address below the base has no name. A FAR that ESR marks as not valid is not printed.
        let line = "!! fault esr=96000410 elr=0x1000 far=1 base=40200000";
        assert_eq!(
            describe_exception(line, &symbols).as_deref(),
            Some("data abort, same level: external abort on a read, FAR not valid; at 0x1000")
        );
        assert_eq!(describe_exception("!! stopped", &symbols), None);
        assert_eq!(describe_exception("esr=0000000096000045", &symbols), None);
    }
}
