//! Files that somebody else has made or changed.

use crate::{Lab, NOW, group, pair, raw, sentence};
use failback_control::state::{JobKind, JobQuery, State, Subject, restore};
use proptest::prelude::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A closed state with something in every table.
fn filled() -> Lab {
    let lab = Lab::new();
    let mut state = lab.open();
    state.add_pair(&pair(1), NOW).unwrap();
    state.add_pair(&pair(2), NOW).unwrap();
    state.add_group(&group("a", &[1]), NOW).unwrap();
    let job = state.queue_job(JobKind::Final, &Subject::Group("a".into()), NOW).unwrap();
    state.job_failed(job, "no.", NOW).unwrap();
    drop(state);
    lab
}

/// Opens it and uses all of it. Whatever comes of that, it comes to an end.
fn use_all(path: &Path) -> bool {
    let Ok(mut state) = State::open(path) else { return false };
    state.pairs().unwrap();
    state.groups().unwrap();
    state.jobs(&JobQuery::default()).unwrap();
    // What is only found when a page is written to is an error, and no panic.
    let _ = state.add_pair(&pair(9), NOW);
    let _ = state.queue_job(JobKind::Verify, &Subject::Pair("pair 9".into()), NOW);
    let _ = state.remove_group("a", false);
    true
}

#[test]
fn what_is_planted_is_found_before_it_is_run() {
    for planted in [
        "CREATE TRIGGER t AFTER INSERT ON pair BEGIN DELETE FROM job; END",
        "CREATE VIEW v AS SELECT load_extension('/tmp/x')",
        "CREATE TABLE more (a)",
        "CREATE INDEX i ON pair (upper(name))",
        "CREATE UNIQUE INDEX i ON job (kind)",
        "CREATE VIRTUAL TABLE f USING fts5(a)",
        "ALTER TABLE pair ADD COLUMN more TEXT",
        "ALTER TABLE job ADD COLUMN more BLOB AS (zeroblob(1000000000))",
        "DROP INDEX job_state",
        "DROP TABLE job; CREATE VIEW job AS SELECT 1 AS id",
        "DROP TABLE group_pair; CREATE TABLE group_pair (group_id, place, pair_id)",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, '''receive'', ''send''', '''receive'', ''send'', ''x''')",
    ] {
        let lab = filled();
        raw(&lab.path()).execute_batch(planted).unwrap();
        let says = "DIR/state is damaged, it has other tables, indices, views or triggers than a state has: restore a good backup \
                    with `failback state restore`";
        assert_eq!(sentence(State::open(&lab.path()), &lab), says, "{planted}");
        let copied = sentence(restore(&lab.file("new"), &lab.path()), &lab);
        assert_eq!(copied, says, "{planted}");
    }
}

#[test]
fn no_row_is_believed() {
    let zeroes = "zeroblob(16)";
    for change in [
        "UPDATE pair SET name = 'a' || char(27) || '[2J' WHERE id = 1",
        "UPDATE pair SET name = ' ' || name",
        "UPDATE pair SET name = '' WHERE id = 1",
        "UPDATE pair SET name = printf('%.70c', 'a') || id",
        &format!("UPDATE pair SET target_uuid = {zeroes} WHERE id = 1"),
        &format!("UPDATE pair SET source_uuid = {zeroes}, source_name = NULL WHERE id = 1"),
        "UPDATE pair SET source_name = NULL",
        "UPDATE pair SET source_name = char(10) || id",
        "UPDATE pair SET target_uuid = x'00'  WHERE id = 1",
        "UPDATE pair SET target_uuid = NULL",
        "UPDATE pair SET target_file = zeroblob(16), target_uuid = NULL",
        "UPDATE pair SET target_file = x'00', target_uuid = NULL, target_path = CAST('/a' || id AS BLOB)",
        "UPDATE pair SET target_path = CAST('a' || id AS BLOB)",
        "UPDATE pair SET target_path = CAST('/../a' || id AS BLOB)",
        "UPDATE pair SET retention = CAST('a' AS BLOB)",
        "UPDATE pair SET retention = zeroblob(5000)",
        "UPDATE pair SET peer = x'01'",
        "UPDATE pair SET direction = 'sideways'",
        "UPDATE pair SET new_disk = 2",
        "UPDATE pair SET signer = x'01'",
        "UPDATE pair SET name = CAST(x'ff' AS TEXT) WHERE id = 1",
        "UPDATE protection_group SET name = 'a' || char(7)",
        "UPDATE protection_group SET quiesce_ms = -1",
        "UPDATE protection_group SET quiesce_ms = 99",
        "DELETE FROM group_pair",
        "INSERT INTO group_pair VALUES (1, -1, 2)",
        "INSERT INTO group_pair VALUES (7, 1, 2)",
        "INSERT INTO group_pair VALUES (1, 1, 7)",
        "UPDATE job SET kind = 'explode'",
        "UPDATE job SET state = 'paused'",
        "UPDATE job SET state = 'running'",
        "UPDATE job SET ended = NULL",
        "UPDATE job SET subject_kind = 'host'",
        "UPDATE job SET subject = ''",
        "UPDATE job SET durable = -1",
        "UPDATE job SET total = -1",
        "UPDATE job SET error = 'a' || char(27)",
        "UPDATE job SET phase = char(10)",
        "UPDATE job SET error = printf('%.5000c', 'a')",
        "UPDATE job SET error = CAST(x'ff' AS TEXT)",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'pair') WHERE name = 'job'",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 99999 WHERE name = 'job'",
    ] {
        let lab = filled();
        let file = raw(&lab.path());
        file.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF").unwrap();
        file.execute_batch(change).unwrap();
        drop(file);
        for said in [sentence(State::open(&lab.path()), &lab), sentence(restore(&lab.file("new"), &lab.path()), &lab)] {
            assert!(
                said.starts_with("DIR/state is damaged, ")
                    && said.ends_with(": restore a good backup with `failback state restore`"),
                "{change}: {said}"
            );
            assert!(!said.contains(char::is_control), "{said:?}");
        }
        assert!(!lab.file("new").exists());
    }
}

#[test]
fn an_index_that_is_not_of_its_table_is_not_restored() {
    let lab = filled();
    // The rows change without their index.
    let file = raw(&lab.path());
    let schema = "PRAGMA writable_schema = ON; \
                  UPDATE sqlite_schema SET sql = 'CREATE INDEX job_state ON job (kind)' WHERE name = 'job_state'";
    let (was, now) = ("job_state ON job (kind)", "job_state ON job (state)");
    file.execute_batch(schema).unwrap();
    drop(file);
    let file = raw(&lab.path());
    file.execute_batch("REINDEX job_state").unwrap();
    file.execute_batch(&format!(
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, '{was}', '{now}')"
    ))
    .unwrap();
    drop(file);
    let said = sentence(restore(&lab.file("new"), &lab.path()), &lab);
    assert!(said.starts_with("DIR/state is damaged, row 1 missing from index job_state"), "{said}");
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn no_end_is_too_early() {
    let lab = filled();
    let whole = fs::read(lab.path()).unwrap();
    for end in (1..whole.len()).step_by(509) {
        let lab = Lab::new();
        write(&lab.path(), &whole[..end]);
        assert!(!use_all(&lab.path()), "{end}");
        assert!(restore(&lab.file("new"), &lab.path()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 1..20_000), with_header: bool) {
        let lab = filled();
        let mut header = fs::read(lab.path()).unwrap();
        header.truncate(100);
        let bytes = if with_header { [header, bytes].concat() } else { bytes };
        write(&lab.path(), &bytes);
        prop_assert!(restore(&lab.file("new"), &lab.path()).is_err());
        prop_assert!(!use_all(&lab.path()));
    }

    /// A changed byte may be one that nothing depends on. Then the file is used; in no case does anything panic or hang.
    #[test]
    fn changed_bytes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let lab = filled();
        let mut bytes = fs::read(lab.path()).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        write(&lab.path(), &bytes);
        let restored = restore(&lab.file("new"), &lab.path()).is_ok();
        let used = use_all(&lab.path());
        // A restore looks at more.
        prop_assert!(!restored || used);
        if restored {
            prop_assert!(use_all(&lab.file("new")));
        }
    }
}
