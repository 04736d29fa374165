//! The verb `dist`: writes a release folder, with which the checker needs neither Rust nor a clone.
//!
//! - `Image`, `Image.efi` (the same bytes), `disk.itb`, `kernel.elf`: from a build of their own, in
//!   which no path of this host is left, so that the same sources give the same bytes.
//! - `ouroboros-check`: the judge; a static program on Linux, if the target for it can be had.
//! - `known.toml`, the JSON schema, a bill of materials (CycloneDX), the licences, `SHA256SUMS`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use harness::{
    disk,
    kernel_build::{self, TARGET},
    paths, setup,
};

/// The program in the folder.
const JUDGE: &str = "ouroboros-check";

const README: &str = "\
# Ouroboros {version}

A kernel for 64-bit Arm that checks how it was entered, rule by rule of Linux's arm64 boot protocol.
Start `Image` as you start Linux, with `check` in bootargs and two CPUs or more, and judge its
console:

    ./ouroboros-check boot.log

Or have it started by your command:

    ./ouroboros-check --exec 'my-vmm --kernel {image} --disk {disk} --cmdline {append}'

`disk.itb` is the FIT that the kernel restarts from: a virtio disk, or the initrd.
`Image.efi` is the same file as `Image`, for UEFI. `./ouroboros-check --help` has the rest.
";

/// Write a release folder: Image, disk and the program that judges them, reproducibly
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cargo xtask dist
  cargo xtask dist --out /tmp/release")]
pub struct DistOptions {
    /// The folder to write to [default: ouroboros/dist in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl DistOptions {
    /// Runs the verb; returns its exit code.
    pub fn perform(&self) -> Result<u8> {
        setup::check_target()?;
        let out = self.out.clone().unwrap_or_else(|| paths::target_dir().join("ouroboros/dist"));
        write(&out)?;
        println!("{}", out.display());
        Ok(0)
    }
}

/// Writes the release folder.
pub fn write(out: &Path) -> Result<()> {
    let kernel = kernel_build::build_for_release()?;
    let (judge, target) = judge()?;
    let root = |name: &str| read(&paths::root().join(name));
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let files: BTreeMap<&str, Vec<u8>> = [
        ("Image", kernel.image.clone()),
        ("Image.efi", kernel.image.clone()),
        ("disk.itb", disk::of(&kernel, false)),
        ("kernel.elf", read(&kernel.elf)?),
        (JUDGE, read(&judge)?),
        ("known.toml", root("xtask/known.toml")?),
        ("check-report.schema.json", root("docs/check-report.schema.json")?),
        ("sbom.cdx.json", bill_of_materials(&target)?.into_bytes()),
        ("LICENSE-APACHE", root("LICENSE-APACHE")?),
        ("LICENSE-MIT", root("LICENSE-MIT")?),
        ("README.md", README.replace("{version}", version).into_bytes()),
    ]
    .into();
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for (name, bytes) in &files {
        let path = out.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Its mode, too.
    fs::copy(&judge, out.join(JUDGE)).context("cannot copy the judge")?;
    fs::write(out.join("SHA256SUMS"), sums(&files)).context("cannot write SHA256SUMS")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Formats the checksums as `sha256sum --check` reads them.
fn sums(files: &BTreeMap<&str, Vec<u8>>) -> String {
    let line = |(name, bytes): (&&str, &Vec<u8>)| {
        let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        format!("{digest}  {name}\n")
    };
    files.iter().map(line).collect()
}

/// Builds the judge; returns its path, and its target.
fn judge() -> Result<(PathBuf, String)> {
    let target = match cfg!(target_os = "linux") {
        true => {
            let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
            let added = Command::new("rustup").args(["target", "add", &target]).output();
            added.is_ok_and(|output| output.status.success()).then_some(target)
        }
        false => None,
    };
    if cfg!(target_os = "linux") && target.is_none() {
        println!("no Rust target for a static program: {JUDGE} needs this host's C library");
    }
    let mut cargo = Command::new(paths::cargo());
    cargo.current_dir(paths::root()).env("CARGO_TARGET_DIR", kernel_build::release_dir());
    cargo.args(["build", "--locked", "--profile", "dist", "--package", JUDGE]);
    cargo.args(kernel_build::remap_host()?);
    if let Some(target) = &target {
        cargo.args(["--target", target]);
    }
    let status = cargo.status().with_context(|| format!("cannot start {cargo:?}"))?;
    ensure!(status.success(), "{JUDGE} does not build; cargo's errors are above");
    let mut path = kernel_build::release_dir();
    path.extend(&target);
    Ok((path.join("dist").join(JUDGE), target.unwrap_or_default()))
}

/// Part of cargo's metadata.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// None for our own crates.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// None for a dependency that is linked.
    kind: Option<String>,
}

/// Lists the crates that are linked into the kernel and into the judge, as CycloneDX 1.5.
fn bill_of_materials(target: &str) -> Result<String> {
    let mut components = BTreeMap::new();
    for (root, platform) in [("kernel", TARGET), (JUDGE, target)] {
        let mut cargo = Command::new(paths::cargo());
        cargo.current_dir(paths::root());
        cargo.args(["metadata", "--locked", "--format-version", "1"]);
        if !platform.is_empty() {
            cargo.args(["--filter-platform", platform]);
        }
        let output = cargo.output().with_context(|| format!("cannot start {cargo:?}"))?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata = serde_json::from_slice(&output.stdout).context("cargo's metadata")?;
        components.extend(linked(&metadata, root)?);
    }
    let components: Vec<Value> = components.into_values().collect();
    let version = env!("CARGO_PKG_VERSION");
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": { "type": "firmware", "name": "ouroboros", "version": version }
        },
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// The components of the crates that `root` links, by name and version. Our own are not among them.
fn linked(metadata: &Metadata, root: &str) -> Result<BTreeMap<(String, String), Value>> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let root = metadata.packages.iter().find(|package| package.name == root);
    let mut left = vec![root.context("the root crate is missing")?.id.as_str()];
    let mut seen = BTreeSet::new();
    let mut components = BTreeMap::new();
    while let Some(id) = left.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("{id} is not resolved"))?;
        let is_linked =
            |dependency: &&Dependency| dependency.dep_kinds.iter().any(|it| it.kind.is_none());
        left.extend(node.deps.iter().filter(is_linked).map(|dependency| dependency.pkg.as_str()));
        let Package { name, version, license, source, .. } = packages[id];
        if source.is_some() {
            // Older crates write OR as a slash, which SPDX does not know.
            let license = license.as_deref().unwrap_or("NOASSERTION").replace('/', " OR ");
            let component = json!({
                "type": "library",
                "name": name,
                "version": version,
                "purl": format!("pkg:cargo/{name}@{version}"),
                "licenses": [{ "expression": license }],
            });
            components.insert((name.clone(), version.clone()), component);
        }
    }
    Ok(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_has_what_is_linked_and_nothing_else() {
        let package = |name: &str, source: Value| {
            json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                    "source": source })
        };
        let dependency =
            |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let node = |name: &str, deps: Value| json!({ "id": name, "deps": deps });
        let metadata = json!({
            "packages": [
                package("kernel", Value::Null), package("log", "registry".into()),
                package("proptest", "registry".into()), package("cc", "registry".into()),
                package("spin", "registry".into()), package("other", "registry".into()),
            ],
            "resolve": { "nodes": [
                node("kernel", json!([
                    dependency("log", Value::Null), dependency("proptest", "dev".into()),
                    dependency("cc", "build".into()),
                ])),
                node("log", json!([dependency("spin", Value::Null)])),
                node("spin", json!([dependency("log", Value::Null)])),
                node("proptest", json!([])), node("cc", json!([])), node("other", json!([])),
            ] },
        });
        let metadata: Metadata = serde_json::from_value(metadata).unwrap();
        let components = linked(&metadata, "kernel").unwrap();
        let names: Vec<_> = components.keys().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["log", "spin"]);
        let log = &components.values().next().unwrap();
        assert_eq!(log["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert!(linked(&metadata, "no-such-crate").is_err());
    }

    #[test]
    fn the_sums_are_as_sha256sum_prints_them() {
        let files = BTreeMap::from([("b", b"abc".to_vec()), ("a", Vec::new())]);
        assert_eq!(
            sums(&files),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n\
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b\n"
        );
    }
}
