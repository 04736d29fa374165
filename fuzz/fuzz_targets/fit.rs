//! The libFuzzer entry point for [`fuzz::fit`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::fit::hold(data));
