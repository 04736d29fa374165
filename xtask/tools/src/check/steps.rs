//! The list of check steps, quick ones first.

use super::{
    clobbers, code_map, contracts, header, layout, model, moved, mutants, prose, relocations,
    step::{Act, Run, Step},
    texts, vectors,
};
use crate::fuzz;
use harness::kernel_build::{self, TARGET};

/// The step that builds the kernel; the steps that look at the kernel need it.
pub const BUILD: &str = "build";

/// The crates of the kernel that Miri runs: those whose tests take minutes there, not hours.
const MIRI_CRATES: &str =
    "--package boot --package efi --package fdt --package frames --package gic --package relocate";

/// The Miri toolchain test and its installer.
///
/// `rustup run`, unlike `cargo +nightly`, never installs a toolchain by itself. `setup` also builds
/// Miri's standard library.
const MIRI: (&str, &str) = (
    "rustup run nightly cargo miri setup",
    "rustup toolchain install nightly --profile minimal --component miri --component rust-src",
);
const DENY: (&str, &str) = ("cargo deny --version", "cargo install --locked cargo-deny");

/// Returns all steps.
pub fn all() -> Vec<Step> {
    let crates = format!("{MIRI_CRATES} --package protocol --package virtio --package kernel");
    let bare = format!("--target {TARGET} --release");
    // rustdoc checks links only in what it documents, so document private items as well.
    let doc = "RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --document-private-items";
    let look = |name, what, look| Step { name, what, act: Act::Look(look) };
    let read = |name, what, read| Step { name, what, act: Act::Read(read) };
    let mut steps = vec![
        run("fmt", "rustfmt would format it differently", "cargo fmt --all --check"),
        run(
            "fmt-fuzz",
            "rustfmt would format it differently",
            "cargo fmt --manifest-path fuzz/Cargo.toml --check",
        ),
        read(
            "contracts",
            "an assembly routine does not say what it takes, leaves and touches",
            contracts::wrong,
        ),
        read("paths", "a file names a path on one person's machine", texts::homes),
        Step {
            name: "code-map",
            what: "the code map is not made of the files' first lines",
            act: Act::Generate(code_map::PAGE, code_map::page),
        },
        read(
            "prose",
            "a comment or a page is not written by the rules of CONTRIBUTING",
            prose::wrong,
        ),
        run(
            "clippy-host",
            "clippy warns",
            "cargo clippy --workspace --exclude kernel --all-targets -- -D warnings",
        ),
        needing(
            "clippy-fuzz",
            "clippy warns",
            "cargo clippy --manifest-path fuzz/Cargo.toml --all-targets -- -D warnings",
            fuzz::COMPILER,
        ),
        run(
            "clippy-target",
            "clippy warns",
            &format!("cargo clippy {crates} {bare} -- -D warnings"),
        ),
        run("doc-host", "rustdoc warns", &format!("{doc} --workspace --exclude kernel")),
        run("doc-target", "rustdoc warns", &format!("{doc} {crates} {bare}")),
        // `cargo doc` skips the binary because it has the library's name.
        run(
            "doc-kernel",
            "rustdoc warns",
            &format!(
                "RUSTDOCFLAGS=-Dwarnings cargo rustdoc --package kernel --bin kernel {bare} \
                 -- --document-private-items"
            ),
        ),
        run(
            BUILD,
            "the kernel does not build",
            &format!("cargo {}", kernel_build::arguments().join(" ")),
        ),
        look(
            "layout",
            "the ELF is not laid out as a loader and the kernel's map expect",
            layout::wrong,
        ),
        look("header", "the header page does not describe the Image", header::wrong),
        look(
            "relocations",
            "the ELF asks for more than boot's own relocation routine does",
            relocations::wrong,
        ),
        look("moved", "the relocation code cannot run from a copy", moved::wrong),
        look("vectors", "a vector table does not fit its slots", vectors::wrong),
        Step {
            name: "contracts-linked",
            what: "an assembly routine changes other registers than its contract lists",
            act: Act::Compare(clobbers::wrong),
        },
        Step {
            name: "model",
            what: "what the CPU may do shows that maintenance is missing, or none",
            act: Act::Try(model::trial),
        },
        run("test-host", "a test fails", "cargo test"),
        // Not `protocol`: its tests of whole FIT images take an hour under Miri, and it has no
        // unsafe code.
        needing(
            "miri",
            "miri finds undefined behaviour",
            &format!("rustup run nightly cargo miri test {MIRI_CRATES}"),
            MIRI,
        ),
        // Long enough to run the seeds and a little more; `cargo xtask fuzz` is the long form.
        needing(
            "fuzz",
            "an input breaks a promise",
            "cargo xtask fuzz --seconds 3",
            fuzz::COMPILER,
        ),
        needing(
            "deny",
            "deny.toml refuses a dependency",
            "cargo deny check bans licenses sources",
            DENY,
        ),
        // Separate from `deny`: the list of advisories comes over the network.
        excused(
            "advisories",
            "a dependency has a known flaw",
            "cargo deny check advisories",
            DENY,
            "failed to fetch advisory database",
        ),
    ];
    steps.extend(mutants::STEPS.map(|name| Step {
        name,
        what: "the crate's tests miss what changes it, or mutants.txt is out of date",
        act: Act::Named(mutants::trial),
    }));
    steps
}

fn run(name: &'static str, what: &'static str, line: &str) -> Step {
    Step { name, what, act: Act::Run(Run { line: line.to_owned(), ..Run::default() }) }
}

fn needing(
    name: &'static str,
    what: &'static str,
    line: &str,
    needs: (&'static str, &'static str),
) -> Step {
    Step {
        name,
        what,
        act: Act::Run(Run { line: line.to_owned(), needs: Some(needs), excuse: None }),
    }
}

fn excused(
    name: &'static str,
    what: &'static str,
    line: &str,
    needs: (&'static str, &'static str),
    excuse: &'static str,
) -> Step {
    Step {
        name,
        what,
        act: Act::Run(Run { line: line.to_owned(), needs: Some(needs), excuse: Some(excuse) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_needs_quotes_and_no_two_steps_share_a_name() {
        let steps = all();
        for (index, step) in steps.iter().enumerate() {
            // The line is split at spaces and reaches no shell. Only the kernel's build has quotes,
            // which cargo reads.
            let plain = step.name == BUILD || !step.line().contains(['\'', '"', '\\']);
            assert!(plain && !step.line().contains("  "), "{}", step.line());
            assert!(steps[..index].iter().all(|other| other.name != step.name), "{}", step.name);
        }
    }
}
