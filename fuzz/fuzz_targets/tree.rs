//! The libFuzzer entry point for [`fuzz::tree`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tree::hold(data));
