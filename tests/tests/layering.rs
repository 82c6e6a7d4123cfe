//! Which crate may use which: the table here, the one in `ARCHITECTURE.md`, and what cargo sees must be the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Downwards only. Crates without a line use no other crate of ours; `failback-tests` may use any.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "control",
            "credentials",
            "hooks",
            "machine",
            "nbd",
            "orchestrate",
            "relay",
            "replication",
            "transport",
            "units",
        ],
    ),
    ("control", &["credentials", "delta", "hooks", "hostdev", "orchestrate", "replication", "units"]),
    ("orchestrate", &["blockio", "delta", "hashtree", "hostdev", "image", "retention", "units", "volumes"]),
    ("relay", &["delta", "hashtree", "orchestrate", "replication", "units"]),
    ("replication", &["delta", "hashtree", "orchestrate", "units"]),
    ("transport", &["credentials", "replication"]),
    ("machine", &["hostdev", "units"]),
    ("retention", &["blockio", "delta", "hashtree", "units"]),
    ("volumes", &["blockio", "units"]),
    ("image", &["blockio", "units"]),
    ("nbd", &["blockio", "units"]),
    ("delta", &["hashtree", "units"]),
    ("hashtree", &["units"]),
    ("hostdev", &["units"]),
    ("blockio", &["units"]),
];

/// They talk to the kernel.
const MAY_BE_UNSAFE: &[&str] = &["blockio", "hostdev"];

const ANYTHING: &str = "tests";

type Edges = BTreeMap<String, BTreeSet<String>>;

fn metadata() -> Metadata {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().other_options(["--offline".into()]).exec().unwrap()
}

/// A crate's name in the table.
fn short(package: &str) -> &str {
    package.strip_prefix("failback-").unwrap_or_else(|| panic!("{package}: our crates are called failback-something"))
}

fn allowed() -> Edges {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    ALLOWED.iter().map(|(from, to)| ((*from).to_owned(), owned(to))).collect()
}

/// The crates of the workspace that a package depends on, but for tests.
fn edges_of<'a>(package: &'a Package, members: &BTreeSet<&str>) -> Vec<&'a str> {
    let ours = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
    let ours = ours.filter(|dependency| dependency.kind != DependencyKind::Development);
    let names: Vec<_> = ours.map(|dependency| short(&dependency.name)).collect();
    assert!(names.iter().all(|name| members.contains(name)), "{} uses a crate outside the workspace", package.name);
    names
}

#[test]
fn every_edge_points_downwards() {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    let members: BTreeSet<_> = packages.iter().map(|package| short(&package.name)).collect();
    let allowed = allowed();
    for (from, to) in &allowed {
        for name in to.iter().chain([from]) {
            assert!(members.contains(name.as_str()), "the table names {name}, and there is no such crate");
        }
    }
    for package in &packages {
        let from = short(&package.name);
        for to in edges_of(package, &members) {
            let fits = from == ANYTHING || allowed.get(from).is_some_and(|allowed| allowed.contains(to));
            assert!(
                fits,
                "{from} -> {to} is not in the table: use a crate below, or argue for the edge in ARCHITECTURE.md"
            );
        }
    }
    assert_no_circles(&allowed);
}

/// Takes away what depends on nothing that is left, until nothing is left.
fn assert_no_circles(edges: &Edges) {
    let mut left = edges.clone();
    while !left.is_empty() {
        let before = left.len();
        let names: BTreeSet<_> = left.keys().cloned().collect();
        left.retain(|_, to| !to.is_disjoint(&names));
        assert!(left.len() < before, "a circle among {names:?}");
    }
}

#[test]
fn architecture_md_has_the_same_table() {
    let root = metadata().workspace_root;
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let mut lines = text.lines();
    assert!(lines.any(|line| line == "```edges"), "ARCHITECTURE.md has no block that begins with ```edges");
    let mut told = Edges::new();
    for line in lines.take_while(|line| !line.starts_with("```")) {
        let (from, to) = line.split_once("->").unwrap_or_else(|| panic!("no edge: {line}"));
        let to = to.split(',').map(|name| name.trim().to_owned()).collect();
        assert!(told.insert(from.trim().to_owned(), to).is_none(), "a second line for {from}");
    }
    assert_eq!(told, allowed(), "the block in ARCHITECTURE.md is not the table of this test");
}

#[test]
fn unsafe_code_is_where_it_belongs() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let name = short(&package.name);
        let manifest = std::fs::read_to_string(&package.manifest_path).unwrap();
        if MAY_BE_UNSAFE.contains(&name) {
            assert!(manifest.contains("undocumented_unsafe_blocks = \"deny\""), "{name}: unsafe blocks say why");
        } else {
            // `forbid` cannot be taken back by an attribute further down.
            let inherits = manifest.contains("[lints]\nworkspace = true");
            assert!(inherits, "{name} does not take the workspace's lints, which forbid unsafe code");
        }
    }
    let workspace = std::fs::read_to_string(metadata.workspace_root.join("Cargo.toml")).unwrap();
    assert!(workspace.contains("[workspace.lints.rust]\nunsafe_code = \"forbid\"\n"));
}
