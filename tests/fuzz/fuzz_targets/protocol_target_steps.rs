#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = failback_tests::fuzz_protocol::target_steps(bytes);
});
