//! The rules that every generation's log must satisfy, beyond the run's exit code.
//!
//! The tests and the stress harness check them after a run that ended well. A kernel that is
//! slightly wrong would break such a rule without any other sign. Each generation is checked in
//! order, rule by rule; the first broken rule is the error.

use std::{collections::BTreeSet, fmt};

use anyhow::{Result, ensure};
use boot::breadcrumb::NAMES;

use crate::{
    cmdline::{Base, Cmdline, Restart},
    config::Mode,
    disk,
    loader::Loader,
    transcript::{Bye, GenerationLog},
};

/// The modes of generations, and the machines of qemu.toml that are named after them.
pub const MODES: [&str; 3] = ["el1", "nvhe", "vhe"];

/// The modes that a run's generations are expected in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Modes {
    /// Every generation in this mode.
    All(&'static str),
    /// nvhe and vhe in turn.
    Alternate,
}

impl From<Mode> for Modes {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::El1 => Self::All("el1"),
            Mode::Nvhe => Self::All("nvhe"),
            Mode::Vhe => Self::All("vhe"),
            Mode::Alternate => Self::Alternate,
        }
    }
}

impl Modes {
    fn of(self, generation: u32) -> &'static str {
        match self {
            Self::All(mode) => mode,
            Self::Alternate if generation.is_multiple_of(2) => "nvhe",
            Self::Alternate => "vhe",
        }
    }
}

/// The generation under check, those before it, and the run's parameters.
struct Seen<'a> {
    cmdline: &'a Cmdline,
    modes: Modes,
    /// The machine's number of CPUs, if known.
    cpus: Option<u32>,
    /// All generations up to and including this one.
    so_far: &'a [GenerationLog],
    gen_log: &'a GenerationLog,
}

impl<'a> Seen<'a> {
    fn before(&self) -> Option<&'a GenerationLog> {
        self.so_far.len().checked_sub(2).map(|at| &self.so_far[at])
    }

    /// The previous generation and its `Bye!`; none for generation 0, whose loader says nothing.
    fn sent(&self) -> Result<Option<(&'a GenerationLog, &'a Bye)>, String> {
        let Some(before) = self.before() else { return Ok(None) };
        let bye = before
            .bye
            .as_ref()
            .ok_or_else(|| format!("generation {} did not print Bye!", before.number))?;
        Ok(Some((before, bye)))
    }

    fn is_last(&self) -> bool {
        self.gen_log.number + 1 == self.cmdline.generations
    }
}

/// The result of a rule: nothing, or a description of what is wrong.
type Found = Result<(), String>;

/// A rule that holds for every generation.
struct Rule {
    name: &'static str,
    holds: fn(&Seen<'_>) -> Found,
}

/// All rules. A new field of a record that must be right in every generation becomes a new entry.
const RULES: &[Rule] = &[
    Rule { name: "number in order", holds: number },
    Rule { name: "mode as requested", holds: mode },
    Rule { name: "seed as requested", holds: seed },
    Rule { name: "kexec path as requested", holds: way_out },
    Rule { name: "address as announced", holds: address },
    Rule { name: "every breadcrumb, the whole-image check among them", holds: breadcrumbs },
    Rule { name: "placement as requested", holds: placement },
    Rule { name: "all CPUs up", holds: cpus_up },
    Rule { name: "all CPUs at work, then off, with no interrupt but their own", holds: interrupts },
    Rule { name: "nothing left on by a predecessor", holds: quiet },
    Rule { name: "CNTVCT increases", holds: time },
    Rule { name: "memory and device tree as in generation 2", holds: drift },
    Rule { name: "a Bye! from all but the last", holds: last },
];

/// A broken rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Broken {
    /// The generation that broke it.
    pub generation: u32,
    /// The rule's name.
    pub rule: &'static str,
    /// A description of what is wrong.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}: not \"{}\": {}", self.generation, self.rule, self.why)
    }
}

impl std::error::Error for Broken {}

/// Checks the generations against the run's parameters. The error is a [`Broken`].
pub fn check(logs: &[GenerationLog], cmdline: &Cmdline, modes: Modes) -> Result<()> {
    Ok(prove(logs, cmdline, modes, None)?)
}

/// Checks the generations against the run's parameters, on a machine with `cpus` CPUs; returns the
/// first broken rule.
pub fn prove(
    logs: &[GenerationLog],
    cmdline: &Cmdline,
    modes: Modes,
    cpus: Option<u32>,
) -> Result<(), Broken> {
    prove_each(logs, cmdline, modes, cpus)?;
    let (found, requested) = (logs.len(), cmdline.generations);
    if found == requested as usize {
        return Ok(());
    }
    let generation = logs.last().map_or(0, |last| last.number + 1);
    Err(Broken {
        generation,
        rule: RULES[0].name,
        why: format!("{found} generations started, not {requested}"),
    })
}

/// Checks each generation, but not that all of them came up: for a run that was meant to end early.
pub fn prove_each(
    logs: &[GenerationLog],
    cmdline: &Cmdline,
    modes: Modes,
    cpus: Option<u32>,
) -> Result<(), Broken> {
    for (at, gen_log) in logs.iter().enumerate() {
        let seen = Seen { cmdline, modes, cpus, so_far: &logs[..=at], gen_log };
        for rule in RULES {
            (rule.holds)(&seen).map_err(|why| Broken {
                generation: gen_log.number,
                rule: rule.name,
                why,
            })?;
        }
    }
    Ok(())
}

/// Removes from generation 0 the stale interrupts that its loader is known to leave.
///
/// Firmware leaves none. Linux's kexec always left the same: the serial port's interrupt enabled,
/// LPIs on, and on the CPU that kexecs, its IPIs enabled and its timer's interrupt pending. The
/// kernel is not to blame for them, but it must find and clear all of them: generation 0 reports
/// them, generation 1 has nothing to report.
pub fn without_leftovers(logs: &mut [GenerationLog], loader: Loader) -> Result<()> {
    if let (true, Some(first)) = (loader.is_linux(), logs.first_mut()) {
        for left in
            ["shared by all CPUs: INTID 33 enabled", "of the CPUs with LPIs on", "INTID 0 enabled"]
        {
            ensure!(
                first.found.iter().any(|found| found.contains(left)),
                "Linux leaves \"{left}\", but generation 0 did not find it"
            );
        }
        first.found.clear();
    }
    Ok(())
}

fn unless(good: bool, why: impl FnOnce() -> String) -> Found {
    if good { Ok(()) } else { Err(why()) }
}

fn number(seen: &Seen<'_>) -> Found {
    let (gen_log, due) = (seen.gen_log, seen.so_far.len() - 1);
    unless(gen_log.number as usize == due, || {
        format!("it is number {}, not {due}", gen_log.number)
    })?;
    let requested = seen.cmdline.generations;
    unless(gen_log.of == requested, || {
        format!("it counts {} generations, not {requested}", gen_log.of)
    })
}

fn mode(seen: &Seen<'_>) -> Found {
    let (logs, asked) = (&seen.gen_log.mode, seen.modes.of(seen.gen_log.number));
    unless(logs == asked, || format!("its mode is {logs}, not {asked}"))
}

fn seed(seen: &Seen<'_>) -> Found {
    let (draws, asked) = (seen.gen_log.seed, seen.cmdline.seed);
    unless(draws == asked, || format!("its seed is {draws:#x}, not {asked:#x}"))
}

/// Checks the path from the previous generation to this one against the parameters.
fn way_out(seen: &Seen<'_>) -> Found {
    let Some((from, bye)) = seen.sent()? else { return Ok(()) };
    let left = || format!("generation {}, {}, left by \"{}\"", from.number, from.mode, bye.way);
    unless(bye.way.contains("HVC_SOFT_RESTART") == (from.mode == "nvhe"), left)?;
    unless(bye.way.starts_with("copy") == (seen.cmdline.restart == Restart::Hot), left)?;
    let (named, lies) = (bye.control, from.control);
    unless(named == lies, || {
        format!("{}, by control pages at {named:#x}; its own are at {lies:#x}", left())
    })
}

fn address(seen: &Seen<'_>) -> Found {
    let Some((_, bye)) = seen.sent()? else { return Ok(()) };
    let (entry, base) = (bye.entry, seen.gen_log.base);
    unless(entry == base, || format!("Bye! announced {entry:#x}, but it is at {base:#x}"))
}

/// Checks that the path to this kernel left every breadcrumb, in order. The relocation code leaves
/// "verified" after every byte of every destination matched the checksum of the loaded payload,
/// whose SHA-256 was right.
fn breadcrumbs(seen: &Seen<'_>) -> Found {
    use boot::breadcrumb::{BYE, CONTROL, COPIED, LEAVING, MAINTAINED, MMU_OFF, VERIFIED};
    let way_out = match seen.cmdline.restart {
        Restart::Hot => [BYE, CONTROL, COPIED, MAINTAINED, VERIFIED, MMU_OFF, LEAVING],
        Restart::Cold => [BYE, CONTROL, MMU_OFF, MAINTAINED, COPIED, VERIFIED, LEAVING],
    };
    // A loader leaves no breadcrumbs before generation 0.
    let mut expected = if seen.gen_log.number == 0 {
        Vec::new()
    } else {
        way_out.map(|phase| NAMES[phase]).to_vec()
    };
    expected.push("first instruction");
    expected.extend((seen.gen_log.mode != "el1").then_some("EL2 set up"));
    expected.extend(["MMU on", "main"]);
    let found = seen.gen_log.breadcrumbs();
    unless(found == expected, || format!("they are {found:?}, not {expected:?}"))
}

fn placement(seen: &Seen<'_>) -> Found {
    let bases = || seen.so_far.iter().map(|gen_log| gen_log.base);
    let base = seen.gen_log.base;
    let good = match seen.cmdline.base {
        Base::Same => base == seen.so_far[0].base,
        Base::Load => seen.gen_log.number == 0 || base == disk::LOAD,
        // Leave out generation 0, which the loader placed. Two bases alone may be equal by chance,
        // where there are few slots.
        Base::Random => {
            !seen.is_last()
                || seen.so_far.len() < 4
                || bases().skip(1).collect::<BTreeSet<_>>().len() >= 2
        }
    };
    unless(good, || {
        format!(
            "with base={} it is at {base:#x}, the first at {:#x}",
            seen.cmdline.base, seen.so_far[0].base
        )
    })
}

fn cpus_up(seen: &Seen<'_>) -> Found {
    let (up, all) = seen.gen_log.cpus;
    unless(up == all && up > 0, || format!("it has {up} of {all} CPUs up"))?;
    let has = seen.cpus.unwrap_or(all);
    unless(has == all, || format!("it knows of {all} CPUs, but the machine has {has}"))
}

/// Checks that a generation that kexecs reported its CPUs' ticks after the others were off.
fn interrupts(seen: &Seen<'_>) -> Found {
    let GenerationLog { ticks, strays, cpus, has_interrupts, bye, .. } = seen.gen_log;
    // A CPU whose first interrupt stays active ticks once, and never again.
    let most = ticks.iter().copied().max().unwrap_or_default();
    let least = if most < PLENTY { 1 } else { 2 };
    let works = !*has_interrupts || ticks.iter().all(|&ticks| ticks >= least);
    let each = ticks.len() == cpus.1 as usize && works;
    unless(bye.is_none() || each, || {
        format!("for {} CPUs it reports the ticks {ticks:?}", cpus.1)
    })?;
    // In a storm each interrupt is reported; how many arrive is left to chance.
    let storm = bye.is_some() && *has_interrupts && seen.cmdline.word("selftest") == Some("storm");
    unless((*strays > 0) == storm, || format!("it took {strays} interrupts that were not its own"))
}

/// A number of ticks that no CPU reaches before every other CPU has ticked twice.
const PLENTY: u64 = 100;

fn quiet(seen: &Seen<'_>) -> Found {
    let found = &seen.gen_log.found;
    unless(found.is_empty(), || format!("it was entered with interrupts that were left: {found:?}"))
}

fn time(seen: &Seen<'_>) -> Found {
    let (Some(before), now) = (seen.before(), seen.gen_log.entered) else { return Ok(()) };
    unless(now > before.entered, || {
        format!("it was entered at {now} ns, the one before at {} ns", before.entered)
    })
}

/// Checks that no resource leaks from generation to generation. The first two differ: the loader's
/// device tree is shrunk once.
fn drift(seen: &Seen<'_>) -> Found {
    let Some(third) = seen.so_far.get(2) else { return Ok(()) };
    let of = |gen_log: &GenerationLog| (gen_log.free, gen_log.tree, gen_log.image);
    let gen_log = seen.gen_log;
    // The number of page tables in a map depends on where the image, the control pages and the
    // device tree are, each with the other CPUs' stacks next to it. Each of the three needs one
    // table for its pages, one more if the pages cross 2 MiB, and one for its GiB, which they may
    // share. Placements recur, and the same placement must take the same memory to the byte.
    let places = |at: usize| {
        let (gen_log, before) = (&seen.so_far[at], &seen.so_far[at - 1]);
        (gen_log.base, gen_log.control, before.bye.as_ref().map(|bye| bye.tree))
    };
    let tables = match (places(2), places(seen.so_far.len() - 1)) {
        (then, now) if then == now => 0,
        (then, now) if then.0 == now.0 => 4 * 4096,
        _ => 6 * 4096,
    };
    let good = third.free.abs_diff(gen_log.free) <= tables
        && (third.tree, third.image) == (gen_log.tree, gen_log.image);
    unless(good, || {
        let (was, is) = (of(third), of(gen_log));
        format!(
            "free memory, device tree and image of generation 2 are {was:?} bytes, \
             its own are {is:?}"
        )
    })
}

fn last(seen: &Seen<'_>) -> Found {
    match (&seen.gen_log.bye, seen.cmdline.kexecs_payload()) {
        (Some(_), false) if seen.is_last() => Err("it is the last, but printed Bye!".to_owned()),
        (None, true) if seen.is_last() => {
            Err("it is the last, but did not kexec the payload".to_owned())
        }
        (None, false) if seen.is_last() && seen.gen_log.end != Some(true) => {
            Err("it did not end the run with success".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{GOOD, logs};

    const NVHE: Modes = Modes::All("nvhe");

    fn cmdline() -> Cmdline {
        Cmdline { seed: 0x2a, ..Cmdline::default() }
    }

    fn judged(console: &str, cmdline: &Cmdline, modes: Modes) -> Result<(), Broken> {
        prove(&logs(console).unwrap(), cmdline, modes, None)
    }

    #[test]
    fn a_run_that_went_well_passes() {
        judged(GOOD, &cmdline(), NVHE).unwrap();
    }

    #[test]
    fn what_linux_leaves_is_linuxs_and_only_the_first_generation_finds_it() {
        let mut left = logs(GOOD).unwrap();
        assert!(
            without_leftovers(&mut left, Loader::LinuxKexec)
                .unwrap_err()
                .to_string()
                .contains("INTID 33")
        );
        let found = [
            "shared by all CPUs: INTID 33 enabled",
            "4 of the CPUs with LPIs on",
            "CPU 0 (MPIDR 0x0): INTID 0 enabled",
        ];
        left[0].found = found.map(str::to_owned).into();
        let mut from_others = left.clone();
        without_leftovers(&mut left, Loader::LinuxKexec).unwrap();
        assert!(left[0].found.is_empty());
        without_leftovers(&mut from_others, Loader::UBootBooti).unwrap();
        assert_eq!(from_others[0].found.len(), 3);
        left[1].found.push("CPU 0 (MPIDR 0x0): INTID 30 pending".to_owned());
        assert!(
            check(&left, &cmdline(), NVHE).unwrap_err().to_string().contains("INTID 30 pending")
        );
    }

    /// The record of that kind that generation `number` of [`GOOD`] prints, with its line end.
    fn record(number: u32, kind: &str) -> String {
        let start = format!("\"record\":\"{kind}\",\"generation\":{number},");
        let line = GOOD.split_inclusive('\n').find(|line| line.contains(&start));
        line.unwrap_or_else(|| panic!("no {kind} of generation {number}")).to_owned()
    }

    #[test]
    fn each_rule_can_fail() {
        let second = GOOD
            .split_inclusive('\n')
            .filter(|line| line.starts_with("[1]") || line.contains("\"generation\":1,"));
        let second: String = second.collect();
        let (generation, kexec) = (record(1, "generation"), record(1, "kexec"));
        let edit = |record: &str, was: &str, is: &str| {
            let edited = record.replacen(was, is, 1);
            assert_ne!(edited, record, "{was}");
            (record.to_owned(), edited)
        };
        for ((was, is), why) in [
            ((second, String::new()), "number 2, not 1"),
            (edit(&generation, "\"of\":3", "\"of\":4"), "counts 4"),
            (edit(&generation, "\"nvhe\"", "\"vhe\""), "mode is vhe"),
            (edit(&generation, "0x2a", "0x2b"), "seed is 0x2b"),
            ((kexec.clone(), String::new()), "did not print Bye!"),
            (edit(&kexec, "HVC_SOFT_RESTART", "branch"), "left by \"copy, MMU off, branch\""),
            (edit(&kexec, "copy, MMU off", "MMU off, copy"), "left by \"MMU off, copy"),
            (edit(&kexec, "0x40200000", "0x40400000"), "announced 0x40400000"),
            (edit(&kexec, "0x5ff80000", "0x5ff90000"), "by control pages at 0x5ff90000"),
            (edit(&generation, ",[\"verified\",4]", ""), "every breadcrumb"),
            (
                edit(
                    &generation,
                    "[\"copied\",2],[\"maintained\",3]",
                    "[\"maintained\",3],[\"copied\",2]",
                ),
                "every breadcrumb",
            ),
            (edit(&record(0, "generation"), "[[", "[[\"Bye!\",0],["), "every breadcrumb"),
            (edit(&record(1, "cpus"), "\"up\":2", "\"up\":1"), "1 of 2 CPUs up"),
            ((record(1, "cpus"), String::new()), "0 of 0 CPUs up"),
            (edit(&record(1, "cpus"), "[]", "[\"CPU 1: INTID 27 pending\"]"), "INTID 27 pending"),
            (
                edit(&generation, "\"stale\":[]", "\"stale\":[\"INTID 33 enabled\"]"),
                "INTID 33 enabled",
            ),
            (edit(&kexec, "\"strays\":0", "\"strays\":1"), "took 1 interrupts"),
            (edit(&kexec, "[16,14]", "[16,0]"), "reports the ticks [16, 0]"),
            (edit(&kexec, "[16,14]", "[16]"), "reports the ticks [16]"),
            (
                edit(&record(2, "generation"), "40753024", "20753024"),
                "the one before at 20753024 ns",
            ),
            ((record(2, "end"), String::new()), "success"),
            (edit(&record(2, "end"), "true", "false"), "success"),
            (
                (record(2, "end"), kexec.replace("\"generation\":1", "\"generation\":2")),
                "printed Bye!",
            ),
        ] {
            let doctored = GOOD.replacen(&was, &is, 1);
            assert_ne!(doctored, GOOD, "{was}");
            let error = judged(&doctored, &cmdline(), NVHE).unwrap_err().to_string();
            assert!(error.contains(why), "{error}, not {why}");
        }
    }

    /// The kexec of generation 1 as generation 2 would do it.
    fn third_kexec() -> String {
        let kexec = record(1, "kexec").replace("\"generation\":1", "\"generation\":2");
        kexec.replace("\"control_pages\":\"0x5ff80000\"", "\"control_pages\":\"0x5ff40000\"")
    }

    /// [`GOOD`] with a fourth generation.
    fn four() -> String {
        let fourth = (record(2, "generation") + &record(2, "cpus") + &record(2, "end"))
            .replace("\"generation\":2", "\"generation\":3")
            .replace("40753024", "60753024");
        let more = GOOD.replace(&record(2, "end"), &third_kexec()) + &fourth;
        more.replace("\"of\":3", "\"of\":4")
    }

    #[test]
    fn with_a_payload_the_last_one_goes_as_well() {
        let to_payload = Cmdline { append: vec!["payload=conf-2".to_owned()], ..cmdline() };
        let error = judged(GOOD, &to_payload, NVHE).unwrap_err().to_string();
        assert!(error.contains("did not kexec the payload"), "{error}");
        judged(&GOOD.replace(&record(2, "end"), &third_kexec()), &to_payload, NVHE).unwrap();
    }

    #[test]
    fn a_run_that_ends_too_early_is_reported() {
        let two = &GOOD[..GOOD.find("[2] ").unwrap()];
        let error = judged(two, &cmdline(), NVHE).unwrap_err();
        assert_eq!((error.generation, error.why.as_str()), (2, "2 generations started, not 3"));
    }

    #[test]
    fn a_machine_with_more_cpus_than_the_kernel_knows_is_reported() {
        let logs = logs(GOOD).unwrap();
        prove(&logs, &cmdline(), NVHE, Some(2)).unwrap();
        assert!(prove(&logs, &cmdline(), NVHE, Some(4)).unwrap_err().why.contains("has 4"));
    }

    #[test]
    fn drift_is_seen_from_the_third_generation_on() {
        let more = four();
        let cmdline = Cmdline { generations: 4, ..cmdline() };
        judged(&more, &cmdline, NVHE).unwrap();
        for (was, is) in [
            ("536217920", "536213824"),
            ("\"fdt_bytes\":7846", "\"fdt_bytes\":7850"),
            ("\"image_bytes\":479232", "\"image_bytes\":1"),
        ] {
            let at = more.rfind(was).unwrap();
            let doctored = more[..at].to_owned() + &more[at..].replacen(was, is, 1);
            let error = judged(&doctored, &cmdline, NVHE).unwrap_err().to_string();
            assert!(
                error.starts_with("generation 3: ") && error.contains("its own are"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_map_elsewhere_may_take_four_more_tables_and_no_more() {
        let cmdline = Cmdline { generations: 4, ..cmdline() };
        let elsewhere = |free: u32, was: &str, is: &str| {
            let four = four();
            let at = four.rfind(was).unwrap();
            let (most, last) = (four[..at].to_owned(), four[at..].replace(was, is));
            most + &last.replace("\"free_bytes\":536217920", &format!("\"free_bytes\":{free}"))
        };
        for (was, is) in [
            ("\"control_pages\":\"0x5ff40000\"", "\"control_pages\":\"0x5ff80000\""),
            ("\"fdt\":\"0x5ffc2000\"", "\"fdt\":\"0x4028c000\""),
        ] {
            judged(&elsewhere(536_217_920 - 16384, was, is), &cmdline, NVHE).unwrap();
            assert!(judged(&elsewhere(536_217_920 - 16385, was, is), &cmdline, NVHE).is_err());
        }
        assert!(
            judged(&elsewhere(536_217_920 - 1, "5ff40000", "5ff40000"), &cmdline, NVHE).is_err()
        );
    }

    #[test]
    fn bases_are_those_that_were_requested() {
        let load = Cmdline { base: Base::Load, ..cmdline() };
        assert!(judged(GOOD, &load, NVHE).unwrap_err().to_string().contains("base=load"));
        let random = Cmdline { base: Base::Random, generations: 4, ..cmdline() };
        assert!(judged(&four(), &random, NVHE).unwrap_err().to_string().contains("base=random"));
        let (kexec, generation) = (record(0, "kexec"), record(1, "generation"));
        let generation = generation.replace("\"of\":3", "\"of\":4");
        let elsewhere = four()
            .replace(&kexec, &kexec.replace("0x40200000", "0x43000000"))
            .replace(&generation, &generation.replace("0x40200000", "0x43000000"));
        let same = Cmdline { base: Base::Same, ..random.clone() };
        assert!(judged(&elsewhere, &same, NVHE).unwrap_err().to_string().contains("base=same"));
        judged(&elsewhere, &random, NVHE).unwrap();
    }

    #[test]
    fn the_other_modes_and_the_other_restart_have_their_own_ways() {
        let cold = Cmdline { restart: Restart::Cold, ..cmdline() };
        assert!(judged(GOOD, &cold, NVHE).is_err());
        assert!(judged(GOOD, &cmdline(), Modes::All("el1")).is_err());
        assert!(
            judged(GOOD, &cmdline(), Modes::Alternate)
                .unwrap_err()
                .to_string()
                .contains("generation 1")
        );
        let (generation, kexec) = (record(1, "generation"), record(1, "kexec"));
        let alternate = GOOD
            .replace(&generation, &generation.replace("nvhe", "vhe"))
            .replace(&kexec, &kexec.replace("HVC_SOFT_RESTART", "branch"));
        judged(&alternate, &cmdline(), Modes::Alternate).unwrap();
    }
}
