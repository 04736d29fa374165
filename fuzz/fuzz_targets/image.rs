//! The libFuzzer entry point for [`fuzz::image`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::image::hold(data));
