//! The libFuzzer entry point for [`fuzz::chosen`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::chosen::hold(data));
