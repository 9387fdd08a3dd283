//! Fuzzes `route`; what must hold is in `src/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| export_gateway::fuzzing::run("route", data));
