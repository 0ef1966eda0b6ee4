#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(target) = relevo_fuzz::target("disk") {
        (target.run)(bytes);
    }
});
