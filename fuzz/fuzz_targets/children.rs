//! What packages, archives, package tools and the kernel say.
#![no_main]
#![allow(dead_code)]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::children(bytes));
