//! What every run of several generations must show, beyond its exit code.
//!
//! *When:* after a run that ended well. Each rule is one that a kernel which is slightly wrong would break in silence.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use boot::breadcrumb::PHASES;

use crate::{
    disk,
    orders::{Base, Orders, Restart},
};

use super::transcript::Life;

/// Which modes the generations are to live in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Modes {
    /// This one, all of them.
    All(&'static str),
    /// nvhe and vhe in turn.
    Alternate,
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

/// Holds the lives against what was ordered.
pub fn check(lives: &[Life], orders: &Orders, modes: Modes) -> Result<()> {
    let numbers: Vec<_> = lives.iter().map(|life| life.number).collect();
    let expected: Vec<_> = (0..orders.generations).collect();
    ensure!(numbers == expected, "the generations are {numbers:?}, and should be {expected:?}");
    for life in lives {
        let Life { number, of, mode, seed, .. } = life;
        ensure!(*of == orders.generations, "generation {number} counts {of}, and {} were ordered", orders.generations);
        let asked = modes.of(*number);
        ensure!(mode == asked, "generation {number} lives in {mode}, and should in {asked}");
        ensure!(*seed == orders.seed, "generation {number} draws from {seed:#x}, and should from {:#x}", orders.seed);
        check_phases(life, orders.restart)?;
        let ((up, cpus), found) = (life.cpus, &life.found);
        ensure!(up == cpus && up > 0, "generation {number} has {up} of {cpus} CPUs up");
        ensure!(found.is_empty(), "generation {number} was entered with interrupts that were left: {found:?}");
        ensure!(life.strays == 0, "generation {number} took {} interrupts that were not its own", life.strays);
    }
    lives.windows(2).try_for_each(|pair| check_step(&pair[0], &pair[1], orders))?;
    ensure!(lives.last().is_none_or(|last| last.bye.is_none()), "the last generation said Bye!");
    check_bases(lives, orders.base)?;
    check_drift(lives, orders.base)
}

/// The way from one to the next is the one that was ordered, and ends where the first sent the second.
fn check_step(from: &Life, to: &Life, orders: &Orders) -> Result<()> {
    let number = from.number;
    let Some(bye) = &from.bye else { anyhow::bail!("generation {number} did not say Bye!") };
    let over_stub = bye.way.contains("HVC_SOFT_RESTART");
    ensure!(over_stub == (from.mode == "nvhe"), "generation {number}, {}, left by \"{}\"", from.mode, bye.way);
    let hot = bye.way.starts_with("copy");
    ensure!(hot == (orders.restart == Restart::Hot), "generation {number} left by \"{}\"", bye.way);
    let (entry, base) = (bye.entry, to.base);
    ensure!(entry == base, "generation {number} sent the next one to {entry:#x}, and it lies at {base:#x}");
    let (named, lies) = (bye.control, from.control);
    ensure!(named == lies, "generation {number} has its control pages at {lies:#x} and left by those at {named:#x}");
    Ok(())
}

/// Every station of the way here, in its order.
fn check_phases(life: &Life, restart: Restart) -> Result<()> {
    use boot::breadcrumb::{BYE, CONTROL, COPIED, LEAVING, MAINTAINED, MMU_OFF, VERIFIED};
    let way_out = match restart {
        Restart::Hot => [BYE, CONTROL, COPIED, MAINTAINED, VERIFIED, MMU_OFF, LEAVING],
        Restart::Cold => [BYE, CONTROL, MMU_OFF, MAINTAINED, COPIED, VERIFIED, LEAVING],
    };
    // The first was sent by a loader that leaves no breadcrumbs.
    let mut expected = if life.number == 0 { Vec::new() } else { way_out.map(|phase| PHASES[phase]).to_vec() };
    expected.push("first instruction");
    expected.extend((life.mode != "el1").then_some("EL2 set up"));
    expected.extend(["MMU on", "main"]);
    ensure!(life.phases == expected, "generation {}'s phases are {:?}, not {expected:?}", life.number, life.phases);
    Ok(())
}

fn check_bases(lives: &[Life], base: Base) -> Result<()> {
    let bases: Vec<_> = lives.iter().map(|life| life.base).collect();
    let good = match base {
        Base::Same => bases.iter().all(|base| *base == bases[0]),
        Base::Load => bases[1..].iter().all(|base| *base == disk::LOAD),
        // The first is where the loader put it; two alone may be the same by chance, where there are few slots.
        Base::Random => bases.len() < 4 || bases[1..].iter().collect::<BTreeSet<_>>().len() >= 2,
    };
    ensure!(good, "with base={base} the generations lie at {bases:#x?}");
    Ok(())
}

/// Nothing is used up from generation to generation. The first two differ: the loader's device tree is shrunk once.
fn check_drift(lives: &[Life], base: Base) -> Result<()> {
    let (Some(second), Some(last)) = (lives.get(2), lives.last()) else { return Ok(()) };
    let of = |life: &Life| (life.free, life.tree, life.image);
    // How many page tables a map takes depends on where image and control pages lie: one each for the pages of both, and one each
    // for their GiB, shared or not.
    let tables = if base == Base::Random { 4 * 4096 } else { 0 };
    ensure!(
        second.free.abs_diff(last.free) <= tables && (second.tree, second.image) == (last.tree, last.image),
        "free memory, device tree and image of generation 2 are {:?} bytes, those of generation {} are {:?}",
        of(second),
        last.number,
        of(last)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::transcript::{lives, tests::GOOD},
        *,
    };

    const NVHE: Modes = Modes::All("nvhe");

    fn orders() -> Orders {
        Orders { seed: 0x2a, ..Orders::default() }
    }

    fn judged(console: &str, orders: &Orders, modes: Modes) -> Result<()> {
        check(&lives(console).unwrap(), orders, modes)
    }

    #[test]
    fn a_run_that_went_well_passes() {
        judged(GOOD, &orders(), NVHE).unwrap();
    }

    #[test]
    fn each_rule_can_fail() {
        let line = |number: u32, start: &str| {
            let start = format!("[{number}] {start}");
            format!("{}\n", GOOD.lines().find(|line| line.starts_with(&start)).unwrap())
        };
        let second = GOOD.split_inclusive('\n').filter(|line| line.starts_with("[1]")).collect::<String>();
        for (was, is, why) in [
            (second, String::new(), "the generations are [0, 2]"),
            ("[1] Generation 1 of 3".into(), "[1] Generation 1 of 4".into(), "counts 4"),
            ("[1] Generation 1 of 3: nvhe".into(), "[1] Generation 1 of 3: vhe".into(), "lives in vhe"),
            ("[2] seed 0x2a".into(), "[2] seed 0x2b".into(), "draws from 0x2b"),
            (line(1, "Bye!"), String::new(), "did not say Bye!"),
            ("HVC_SOFT_RESTART; entry".into(), "branch; entry".into(), "left by \"copy, MMU off, branch\""),
            ("Next: copy, MMU off,".into(), "Next: MMU off, copy,".into(), "left by \"MMU off, copy"),
            ("entry 0x40200000".into(), "entry 0x40400000".into(), "sent the next one to 0x40400000"),
            ("control pages 0x5ff80000,".into(), "control pages 0x5ff90000,".into(), "left by those at 0x5ff90000"),
            ("+3 maintained +4 verified".into(), "+3 maintained".into(), "phases are"),
            ("+2 copied +3 maintained".into(), "+2 maintained +3 copied".into(), "phases are"),
            ("CPUs: 2 of 2".into(), "CPUs: 1 of 2".into(), "1 of 2 CPUs up"),
            (line(1, "CPUs"), String::new(), "0 of 0 CPUs up"),
            ("[1] seed".into(), "[1] Found at entry: CPU 1: INTID 27 pending\n[1] seed".into(), "INTID 27 pending"),
            ("not ours 0".into(), "not ours 1".into(), "took 1 interrupts"),
            ("[0] phases, ns: first".into(), "[0] phases, ns: Bye! +1 first".into(), "phases are"),
        ] {
            let doctored = GOOD.replacen(&was, &is, 1);
            assert_ne!(doctored, GOOD, "{was}");
            let error = judged(&doctored, &orders(), NVHE).unwrap_err().to_string();
            assert!(error.contains(why), "{error}, not {why}");
        }
    }

    /// The same with a fourth generation.
    fn four() -> String {
        let fourth = GOOD.lines().filter(|line| line.starts_with("[2]")).map(|line| line.replace("[2]", "[3]"));
        let fourth: Vec<_> = fourth.map(|line| line.replace("Generation 2", "Generation 3")).collect();
        let bye = GOOD.lines().find(|line| line.starts_with("[1] Bye!")).unwrap().replace("[1]", "[2]");
        let bye = bye.replace("control pages 0x5ff80000", "control pages 0x5ff40000");
        let more = GOOD.replace("[2] Ouroboros: success", &bye) + &fourth.join("\n") + "\n";
        more.replace(" of 3", " of 4")
    }

    #[test]
    fn drift_is_seen_from_the_third_generation_on() {
        let more = four();
        let orders = Orders { generations: 4, ..orders() };
        judged(&more, &orders, NVHE).unwrap();
        for (was, is) in
            [("536217920 bytes", "536213824 bytes"), ("tree 7846", "tree 7850"), ("image 479232", "image 1")]
        {
            let at = more.rfind(was).unwrap();
            let doctored = more[..at].to_owned() + &more[at..].replacen(was, is, 1);
            let error = judged(&doctored, &orders, NVHE).unwrap_err().to_string();
            assert!(error.contains("of generation 3 are"), "{error}");
        }
    }

    #[test]
    fn bases_are_those_that_were_ordered() {
        let load = Orders { base: Base::Load, ..orders() };
        assert!(judged(GOOD, &load, NVHE).unwrap_err().to_string().contains("base=load"));
        let random = Orders { base: Base::Random, generations: 4, ..orders() };
        assert!(judged(&four(), &random, NVHE).unwrap_err().to_string().contains("base=random"));
        let elsewhere = four().replacen("entry 0x40200000", "entry 0x43000000", 1);
        let elsewhere = elsewhere.replace("1 of 4: nvhe, base 0x40200000", "1 of 4: nvhe, base 0x43000000");
        let same = Orders { base: Base::Same, ..random.clone() };
        assert!(judged(&elsewhere, &same, NVHE).unwrap_err().to_string().contains("base=same"));
        judged(&elsewhere, &random, NVHE).unwrap();
    }

    #[test]
    fn the_other_modes_and_the_other_restart_have_their_own_ways() {
        let cold = Orders { restart: Restart::Cold, ..orders() };
        assert!(judged(GOOD, &cold, NVHE).is_err());
        assert!(judged(GOOD, &orders(), Modes::All("el1")).is_err());
        assert!(judged(GOOD, &orders(), Modes::Alternate).unwrap_err().to_string().contains("generation 1"));
        let alternate = GOOD.replace("Generation 1 of 3: nvhe", "Generation 1 of 3: vhe");
        let at = alternate.find("[1] Bye!").unwrap();
        let alternate = alternate[..at].to_owned() + &alternate[at..].replacen("HVC_SOFT_RESTART", "branch", 1);
        judged(&alternate, &orders(), Modes::Alternate).unwrap();
    }
}
