//! The libFuzzer entry point for [`fuzz::cmdline`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::cmdline::hold(data));
