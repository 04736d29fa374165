//! The libFuzzer entry point for [`fuzz::list`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::list::hold(data));
