//! Console records: one line of JSON for each fact that a program reads from the console.
//!
//! - The kernel prints them beside its lines for people, without the `[generation] ` prefix. Tools
//!   read the records and no prose, so the prose may change.
//! - Each line begins with [`PREFIX`], which holds the version of the schema. A field that is added
//!   keeps the version; one that is removed or changes its meaning increments it.
//! - A generation prints `generation` and `cpus` once it runs, then a `refusal` for each kexec that
//!   it refuses, then `kexec` or `end`. The checker prints a `rule` for each rule. A generation
//!   without `kexec` or `end` did not finish.
//! - Addresses, seeds and register values are strings, `"0x40200000"`: JSON's numbers are 53 bits
//!   wide in many readers.

use crate::rules::Verdict;
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// Version of the schema.
pub const SCHEMA: u32 = 2;

/// Start of every record's line.
pub const PREFIX: &str = "{\"ouroboros\":2,";

/// Start of a record's line, whatever the version of the schema.
pub const START: &str = "{\"ouroboros\":";

/// Start of a [`Refusal`]'s reason: the relocation code is not what was checked.
pub const RELOCATION_CODE: &str = "the relocation code";

/// Start of a reason: the kimage list or the tables of the relocation idmap.
pub const LIST_AND_IDMAP: &str = "the list or the relocation idmap's tables";

/// Start of a reason: the next kernel's device tree.
pub const NEXT_FDT: &str = "the device tree";

/// Continues such a reason: the last checks before the jump found another checksum.
pub const CHANGED: &str = "changed between load and jump";

/// Static text in the kernel, and text from the console in a tool.
pub type Text = Cow<'static, str>;

/// A record.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
#[cfg_attr(feature = "read", serde(tag = "record", rename_all = "lowercase"))]
pub enum Record {
    /// A generation runs.
    Generation(Generation),
    /// The CPUs are started.
    Cpus(Cpus),
    /// The generation refused a kexec and continues.
    Refusal(Refusal),
    /// The generation is about to pass the point of no return.
    Kexec(Kexec),
    /// The run ends.
    End(End),
    /// The verdict on one rule of the boot protocol.
    Rule(Rule),
}

/// A generation, and what it was entered with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Generation {
    /// Number of this generation; 0 is the loader's.
    pub generation: u32,
    /// Number of generations in the run.
    pub of: u32,
    /// Mode: `el1`, `nvhe` or `vhe`.
    pub mode: Text,
    /// Physical address of the image.
    pub base: Hex,
    /// Seed of the run.
    pub seed: Hex,
    /// Size of the image in memory, in bytes.
    pub image_bytes: u64,
    /// Physical address of the control pages.
    pub control_pages: Hex,
    /// Free memory in bytes.
    pub free_bytes: u64,
    /// Size in bytes of the device tree that is handed on.
    pub fdt_bytes: u64,
    /// Size in bytes of the device tree at entry.
    pub fdt_entry_bytes: u64,
    /// CNTVCT at the first instruction, in nanoseconds.
    pub entered_ns: u64,
    /// Breadcrumbs on the way to this kernel, each with the nanoseconds since the previous one.
    pub boot_trace: Vec<(Text, i64)>,
    /// Stale interrupts that all CPUs share.
    pub stale: Vec<String>,
}

/// The CPUs of a generation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Cpus {
    /// Number of this generation.
    pub generation: u32,
    /// Number of CPUs that are up.
    pub up: u32,
    /// Number of CPUs in the device tree.
    pub of: u32,
    /// Interrupt controller and timer; `null` if this kernel takes no interrupts.
    pub interrupts: Option<String>,
    /// Stale interrupts of single CPUs, and counters that differ.
    pub stale: Vec<String>,
}

/// A kexec that the generation refused.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Refusal {
    /// Number of this generation.
    pub generation: u32,
    /// The rule that is broken, and the value that breaks it.
    pub reason: String,
}

/// A kexec that is about to happen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Kexec {
    /// Number of this generation.
    pub generation: u32,
    /// The steps that follow.
    pub next: Text,
    /// Physical address of the next kernel's first instruction.
    pub entry: Hex,
    /// Physical address of its device tree.
    pub fdt: Hex,
    /// Physical address of the relocation code.
    pub control_pages: Hex,
    /// Physical address of the breadcrumbs.
    pub breadcrumbs: Hex,
    /// Bytes hashed while loading.
    pub hashed_bytes: u64,
    /// Requests to the disk.
    pub disk_requests: u64,
    /// Nanoseconds spent waiting for the disk.
    pub disk_ns: u64,
    /// Nanoseconds until the other CPUs were off.
    pub stop_ns: u64,
    /// Timer interrupts that each CPU took.
    pub ticks: Vec<u64>,
    /// Units of work that each CPU did.
    pub work: Vec<u64>,
    /// Number of interrupts taken that this kernel does not handle.
    pub strays: u64,
}

/// The end of the run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct End {
    /// Number of this generation.
    pub generation: u32,
    /// Whether the run did all that its command line asks for.
    pub success: bool,
}

/// The verdict on one rule.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Rule {
    /// Number of the generation that checked it; `null` if the kernel has no device tree.
    pub generation: Option<u32>,
    /// Mode of that generation; `null` without a device tree.
    pub mode: Option<Text>,
    /// MIDR_EL1 of the CPU that was entered first.
    pub midr: Hex,
    /// Permanent number of the rule.
    pub rule: u32,
    /// The requirement.
    pub text: Text,
    /// Section of the document that requires it.
    pub place: Text,
    /// The value found.
    pub value: String,
    /// The verdict.
    pub verdict: Verdict,
}

/// An address, a seed or a register value, as hexadecimal text.
#[derive(Clone, Copy, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Hex(pub u64);

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Record {
    /// Returns the record's line, without a line end.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = Line(String::from(PREFIX));
        match self {
            Self::Generation(it) => {
                line.start("generation", it.generation).number("of", it.of.into());
                line.text("mode", &it.mode).hex("base", it.base).hex("seed", it.seed);
                line.number("image_bytes", it.image_bytes).hex("control_pages", it.control_pages);
                line.number("free_bytes", it.free_bytes).number("fdt_bytes", it.fdt_bytes);
                line.number("fdt_entry_bytes", it.fdt_entry_bytes);
                line.number("entered_ns", it.entered_ns);
                line.list("boot_trace", &it.boot_trace, |line, (name, ns)| {
                    line.push("[").quoted(name).push(",").show(ns).push("]");
                });
                line.texts("stale", &it.stale);
            }
            Self::Cpus(it) => {
                line.start("cpus", it.generation).number("up", it.up.into());
                line.number("of", it.of.into());
                line.optional("interrupts", it.interrupts.as_deref()).texts("stale", &it.stale);
            }
            Self::Refusal(it) => {
                line.start("refusal", it.generation).text("reason", &it.reason);
            }
            Self::Kexec(it) => {
                line.start("kexec", it.generation).text("next", &it.next);
                line.hex("entry", it.entry).hex("fdt", it.fdt);
                line.hex("control_pages", it.control_pages).hex("breadcrumbs", it.breadcrumbs);
                line.number("hashed_bytes", it.hashed_bytes);
                line.number("disk_requests", it.disk_requests).number("disk_ns", it.disk_ns);
                line.number("stop_ns", it.stop_ns).numbers("ticks", &it.ticks);
                line.numbers("work", &it.work).number("strays", it.strays);
            }
            Self::End(it) => {
                line.start("end", it.generation).key("success").show(&it.success);
            }
            Self::Rule(it) => {
                line.push("\"record\":\"rule\"").key("generation");
                match &it.generation {
                    Some(generation) => line.show(generation),
                    None => line.push("null"),
                };
                line.optional("mode", it.mode.as_deref()).hex("midr", it.midr);
                line.number("rule", it.rule.into()).text("text", &it.text);
                line.text("place", &it.place).text("value", &it.value);
                line.text("verdict", it.verdict.word());
            }
        }
        line.push("}");
        line.0
    }

    /// Parses a line of the console; `None` if it is not a record.
    ///
    /// # Errors
    ///
    /// A record of another version of the schema, or one that does not parse.
    #[cfg(feature = "read")]
    pub fn parse(line: &str) -> Option<Result<Self, String>> {
        use alloc::string::ToString;

        #[derive(serde::Deserialize)]
        struct Version {
            ouroboros: u32,
        }
        line.starts_with(START).then(|| {
            let Version { ouroboros } =
                serde_json::from_str(line).map_err(|error| error.to_string())?;
            if ouroboros != SCHEMA {
                return Err(alloc::format!("schema {ouroboros}, and this reader knows {SCHEMA}"));
            }
            serde_json::from_str(line).map_err(|error| error.to_string())
        })
    }
}

#[cfg(feature = "read")]
impl<'de> serde::Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;

        let text = Cow::<str>::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let wrong = || D::Error::custom(alloc::format!("\"{text}\" is not 0x and digits"));
        digits.map(Self).ok_or_else(wrong)
    }
}

/// A record's line that is being written: a small JSON writer, because serde's would be a page of
/// the kernel's text.
struct Line(String);

impl Line {
    fn push(&mut self, text: &str) -> &mut Self {
        self.0.push_str(text);
        self
    }

    fn show(&mut self, value: &dyn fmt::Display) -> &mut Self {
        // Writing to a String does not fail.
        let _ = write!(self.0, "{value}");
        self
    }

    /// Writes the kind of record, and the generation that prints it.
    fn start(&mut self, kind: &str, generation: u32) -> &mut Self {
        self.push("\"record\":").quoted(kind).number("generation", generation.into())
    }

    fn key(&mut self, name: &str) -> &mut Self {
        self.push(",").quoted(name).push(":")
    }

    fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.key(name).show(&value)
    }

    fn hex(&mut self, name: &str, value: Hex) -> &mut Self {
        self.key(name).push("\"").show(&value).push("\"")
    }

    fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.key(name).quoted(value)
    }

    fn optional(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self.key(name).push("null"),
        }
    }

    fn numbers(&mut self, name: &str, values: &[u64]) -> &mut Self {
        self.list(name, values, |line, value| _ = line.show(value))
    }

    fn texts(&mut self, name: &str, values: &[String]) -> &mut Self {
        self.list(name, values, |line, value| _ = line.quoted(value))
    }

    fn list<T>(&mut self, name: &str, values: &[T], write: fn(&mut Self, &T)) -> &mut Self {
        self.key(name).push("[");
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.push(",");
            }
            write(self, value);
        }
        self.push("]")
    }

    /// Writes a string with the characters escaped that JSON asks for (RFC 8259, section 7).
    fn quoted(&mut self, text: &str) -> &mut Self {
        self.push("\"");
        for letter in text.chars() {
            match letter {
                '"' | '\\' => self.0.extend(['\\', letter]),
                '\0'..='\x1f' => _ = write!(self.0, "\\u{:04x}", u32::from(letter)),
                _ => self.0.push(letter),
            }
        }
        self.push("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;
    use proptest::prelude::*;

    fn kexec() -> Record {
        Record::Kexec(Kexec {
            generation: 7,
            next: "copy, MMU off, branch".into(),
            entry: Hex(0x4020_0000),
            ticks: vec![16, 14],
            disk_ns: 191_024,
            ..Kexec::default()
        })
    }

    #[test]
    fn a_line_is_the_prefix_the_kind_and_the_fields() {
        assert_eq!(
            Record::End(End { generation: 3, success: true }).line(),
            r#"{"ouroboros":2,"record":"end","generation":3,"success":true}"#
        );
        assert!(kexec().line().contains(r#""entry":"0x40200000","fdt":"0x0","#));
        assert!(PREFIX.ends_with(&format!(":{SCHEMA},")));
    }

    #[test]
    fn a_line_parses_to_the_record_that_made_it() {
        let rule = Record::Rule(Rule {
            generation: Some(3),
            mode: Some("vhe".into()),
            midr: Hex(0x410f_d0c1),
            rule: 12,
            text: "DAIF is masked".into(),
            place: "4.2".into(),
            value: "0x\"\\\u{1}é".into(),
            verdict: Verdict::Unseen,
        });
        for record in [kexec(), rule] {
            let line = record.line();
            assert!(!line.contains('\n'));
            assert_eq!(Record::parse(&line), Some(Ok(record)));
        }
    }

    #[test]
    fn each_field_is_parsed_as_itself() {
        let generation = Generation {
            generation: 1,
            of: 2,
            mode: "nvhe".into(),
            base: Hex(3),
            seed: Hex(4),
            image_bytes: 5,
            control_pages: Hex(6),
            free_bytes: 7,
            fdt_bytes: 8,
            fdt_entry_bytes: 9,
            entered_ns: 10,
            boot_trace: vec![("entry".into(), 11), ("main".into(), -12)],
            stale: vec!["SPI 13".into(), "SPI 14".into()],
        };
        let cpus = Cpus {
            generation: 1,
            up: 2,
            of: 3,
            interrupts: Some("GICv3, virtual timer".into()),
            stale: vec!["CPU 1: PPI 27".into()],
        };
        let kexec = Kexec {
            generation: 1,
            next: "copy".into(),
            entry: Hex(2),
            fdt: Hex(3),
            control_pages: Hex(4),
            breadcrumbs: Hex(5),
            hashed_bytes: 6,
            disk_requests: 7,
            disk_ns: 8,
            stop_ns: 9,
            ticks: vec![10, 11],
            work: vec![12],
            strays: 13,
        };
        for record in [
            Record::Generation(generation),
            Record::Cpus(Cpus { interrupts: None, ..cpus.clone() }),
            Record::Cpus(cpus),
            Record::Kexec(kexec),
        ] {
            assert_eq!(Record::parse(&record.line()), Some(Ok(record)));
        }
    }

    #[test]
    fn other_lines_are_no_records() {
        for line in ["", "[0] Bye!", "{\"rule\":1}", " {\"ouroboros\":1,", "{\"ouroboros\"}"] {
            assert_eq!(Record::parse(line), None, "{line}");
        }
    }

    #[test]
    fn doctored_records_are_refused() {
        let line = kexec().line();
        for (was, is) in [
            ("\"ouroboros\":2", "\"ouroboros\":1"),
            ("\"record\":\"kexec\"", "\"record\":\"kexek\""),
            ("\"0x40200000\"", "\"40200000\""),
            ("\"generation\":7,", ""),
            ("}", ""),
        ] {
            let doctored = line.replacen(was, is, 1);
            assert_ne!(doctored, line);
            assert!(matches!(Record::parse(&doctored), Some(Err(_))), "{doctored}");
        }
    }

    #[test]
    fn a_field_that_a_later_kernel_adds_is_ignored() {
        let line = kexec().line().replacen("\"generation\"", "\"colour\":[1],\"generation\"", 1);
        assert_eq!(Record::parse(&line), Some(Ok(kexec())));
    }

    proptest! {
        #[test]
        fn any_text_and_number_survive(reason in ".*", value: u64, trace: i64) {
            let generation = Generation {
                seed: Hex(value),
                free_bytes: value,
                boot_trace: vec![("main".into(), trace)],
                stale: vec![reason.clone()],
                ..Generation::default()
            };
            for record in [
                Record::Generation(generation),
                Record::Refusal(Refusal { generation: 1, reason }),
            ] {
                prop_assert_eq!(Record::parse(&record.line()), Some(Ok(record)));
            }
        }
    }
}
