#![no_main]

libfuzzer_sys::fuzz_target!(|changes: &[u8]| {
    let _ = failback_tests::fuzz_reiserfs::reiserfs(changes);
});
