//! The trial: plays every scene, as linked and with every mutation.
//!
//! It runs in `cargo xtask check model`. `survivors.txt` lists each mutation that no scene notices,
//! under the reason why. The trial fails on:
//!
//! - a scene that fails with the code as linked;
//! - a maintenance instruction that no scene reaches;
//! - a survivor that is not on the list;
//! - an entry of the list that a scene notices, or that names no mutation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::adversary::Adversary;
use crate::failure::Failure;
use crate::kernel::Kernel;
use crate::mutate::{self, Mutation, Site};
use crate::scene::{Linked, Scene};
use crate::{efi, entry, restart, secondary, stub};

/// The number of drawn adversaries, in addition to the named ones. 40 noticed no more mutations.
pub const SEEDS: u64 = 24;

/// The beginnings of the names of routines that no scene enters: two print and stop, and their
/// maintenance is for a debugger that reads memory afterwards; the others are the kernel's tests.
const LEFT_OUT: &[&str] = &["early_exception", "early_off", "probe", "selftest_"];

/// The list of survivors, as committed.
pub const SURVIVORS: &str = include_str!("../survivors.txt");

/// Returns the named adversaries, and one for each seed.
pub fn adversaries(seeds: u64) -> Vec<Adversary> {
    let named = [
        Adversary::lazy(),
        Adversary::lazy_stores_first(),
        Adversary::prompt(),
        Adversary::eager(),
    ];
    named.into_iter().chain((0..seeds).map(Adversary::drawn)).collect()
}

/// Returns all scenes.
#[must_use]
pub fn scenes(kernel: &Kernel) -> Vec<Scene> {
    [restart::scenes, entry::scenes, secondary::scenes, stub::scenes, efi::scenes]
        .iter()
        .flat_map(|of| of(kernel))
        .collect()
}

/// The result of a trial.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The table of results, for people.
    pub table: String,
    /// The failures; empty if the trial passed.
    pub wrong: Vec<String>,
}

/// Runs the trial against the named adversaries and `seeds` drawn ones.
#[must_use]
pub fn trial(kernel: &Kernel, seeds: u64, survivors: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let (scenes, adversaries) = (scenes(kernel), adversaries(seeds));
    let runs: Vec<_> = scenes
        .iter()
        .flat_map(|scene| adversaries.iter().map(move |adversary| (scene, adversary)))
        .collect();
    let played = each(&runs, |(scene, adversary)| scene.play((*adversary).clone()));
    let mut steps = 0;
    let mut as_linked = Vec::new();
    for ((scene, adversary), played) in runs.iter().zip(played) {
        match played {
            Ok((cpu, linked)) => {
                steps += cpu.steps;
                as_linked.push(linked);
            }
            Err(failure) => {
                // Report one failure for each scene.
                let scene_is = |said: &String| said.starts_with(&format!("{} against", scene.name));
                if !outcome.wrong.iter().any(scene_is) {
                    outcome.wrong.push(format!(
                        "{} against {}: {}",
                        scene.name,
                        adversary.name,
                        describe(kernel, &failure)
                    ));
                }
                as_linked.push(Linked::default());
            }
        }
    }
    let _ = writeln!(
        outcome.table,
        "{} scenes x {} adversaries: {steps} instructions, as linked: {}",
        scenes.len(),
        adversaries.len(),
        if outcome.wrong.is_empty() { "all contracts hold" } else { "NOT ALL CONTRACTS HOLD" }
    );
    if !outcome.wrong.is_empty() {
        return outcome;
    }

    let code = [
        kernel.range("relocate_page_start", "relocate_code_end"),
        kernel.range("relocate_page_end", "boot_text_end"),
        kernel.range("efi_leave", "efi_leave_end"),
    ];
    let sites = mutate::sites(kernel, &code);
    let is_left_out =
        |site: &&Site| LEFT_OUT.iter().any(|beginning| site.routine().starts_with(beginning));
    let sites: Vec<_> = sites.iter().filter(|site| !is_left_out(site)).collect();
    let mutations: Vec<(&Site, &Mutation)> = sites
        .iter()
        .flat_map(|site| site.mutations.iter().map(|mutation| (*site, mutation)))
        .collect();
    // Play only those scenes that execute the mutated words as linked. The first adversary that
    // notices ends the search.
    let plays: Vec<_> = (0..adversaries.len())
        .flat_map(|a| (0..scenes.len()).map(move |s| (s, a)))
        .map(|(s, a)| (&scenes[s], &adversaries[a], &as_linked[s * adversaries.len() + a]))
        .collect();
    let noticed = each(&mutations, |(site, mutation)| {
        let reached = plays.iter().filter(|(_, _, linked)| linked.last.contains_key(&site.address));
        reached.clone().next()?;
        Some(reached.clone().any(|(scene, adversary, linked)| {
            scene.play_changed((*adversary).clone(), &mutation.words, linked).is_err()
        }))
    });

    let mut survived = BTreeSet::new();
    let mut rows: BTreeMap<u64, (&str, [usize; 3])> = BTreeMap::new();
    let mut unreached = BTreeSet::new();
    for ((site, mutation), noticed) in mutations.iter().zip(noticed) {
        let row = rows.entry(kernel.routine(site.address).1).or_insert((site.routine(), [0; 3]));
        row.1[0] += 1;
        match noticed {
            None => drop(unreached.insert(&site.name)),
            Some(true) => row.1[1] += 1,
            Some(false) => {
                row.1[2] += 1;
                survived.insert(format!("{}: {}", site.name, mutation.how));
            }
        }
    }
    let _ = writeln!(
        outcome.table,
        "{:<22}{:>10}{:>10}{:>10}",
        "routine", "mutations", "noticed", "survive"
    );
    let mut sums = [0; 3];
    for (routine, counts) in rows.values() {
        let _ = writeln!(
            outcome.table,
            "{routine:<22}{:>10}{:>10}{:>10}",
            counts[0], counts[1], counts[2]
        );
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let _ = writeln!(
        outcome.table,
        "{:<22}{:>10}{:>10}{:>10}",
        format!("{} words", sites.len()),
        sums[0],
        sums[1],
        sums[2]
    );

    outcome.wrong.extend(unreached.iter().map(|site| format!("{site}: no scene reaches it")));
    match listed(survivors) {
        Err(wrong) => outcome.wrong.push(wrong),
        Ok(listed) => {
            let new = survived.difference(&listed);
            outcome.wrong.extend(new.map(|name| {
                format!("{name}: no scene notices, and survivors.txt has no reason for it")
            }));
            let gone = listed.difference(&survived);
            outcome.wrong.extend(gone.map(|name| {
                format!("{name}: is listed in survivors.txt, but is noticed or is no mutation")
            }));
        }
    }
    outcome
}

/// Parses the list of survivors.
///
/// A reason is one or more lines that begin with `=`. Below it come its entries: a site, and its
/// mutations separated by `|`.
///
/// # Errors
///
/// Returns the first entry that is malformed, has no reason, or is listed twice.
pub fn listed(text: &str) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    let mut reason = "";
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(text) = line.strip_prefix('=') {
            reason = text.trim();
            continue;
        }
        let (site, hows) =
            line.rsplit_once(": ").ok_or_else(|| format!("survivors.txt: `{line}` is no entry"))?;
        if reason.is_empty() {
            return Err(format!("survivors.txt: `{line}` is under no reason"));
        }
        for how in hows.split('|') {
            let name = format!("{site}: {}", how.trim());
            if !names.insert(name.clone()) {
                return Err(format!("survivors.txt: `{name}` is listed twice"));
            }
        }
    }
    Ok(names)
}

fn describe(kernel: &Kernel, failure: &Failure) -> String {
    let Some(at) = failure.at else { return format!("at its end: {}", failure.wrong) };
    let (routine, start) = kernel.routine(at);
    format!("at {routine}+{:#x}: {}", at - start, failure.wrong)
}

/// Applies `act` to each item, on all of this host's CPUs.
fn each<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((index, item)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|n| Some((n, items.get(n)?)))
                {
                    let result = act(item);
                    *results[index].lock().expect("no thread panics while it holds the lock") =
                        Some(result);
                }
            });
        }
    });
    let taken = results
        .into_iter()
        .map(|result| result.into_inner().expect("no thread panics while it holds the lock"));
    taken.map(|result| result.expect("each was done")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_list_can_be_read() {
        assert!(!listed(SURVIVORS).unwrap().is_empty());
    }

    #[test]
    fn an_entry_is_its_mutations_under_a_reason() {
        let names =
            listed("# why\n= because\nmmu_off: isb #1: deleted | becomes dsb sy\n").unwrap();
        assert_eq!(
            Vec::from_iter(names),
            ["mmu_off: isb #1: becomes dsb sy", "mmu_off: isb #1: deleted"]
        );
        assert!(listed("mmu_off: isb #1: deleted").unwrap_err().contains("under no reason"));
        assert!(
            listed("= because\nf: isb #1: deleted\nf: isb #1: deleted")
                .unwrap_err()
                .contains("twice")
        );
        assert!(listed("= because\nisb").unwrap_err().contains("no entry"));
    }
}
