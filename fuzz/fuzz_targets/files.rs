//! What stands in files and comes over the control socket: configuration, definitions, records, commands.
#![no_main]

use bootagent::wire::{config, control, record};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    config::read_config("bootagent.json", bytes);
    for in_tar in [false, true] {
        let _ = config::read_definition("web.json", bytes, in_tar, in_tar);
    }
    if let Ok(command) = control::read_command(bytes) {
        assert_eq!(control::read_command(control::write_command(&command).trim_end().as_bytes()), Ok(command));
    }
    let _ = control::read_answer(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(read) = record::read_agent(&text) {
        assert_eq!(record::read_agent(&record::write_agent(&read)), Ok(read));
    }
    if let Ok(read) = record::read_job(&text) {
        assert_eq!(record::read_job(&record::write_job(&read)), Ok(read));
    }
    let _ = (record::read_run(&text), record::read_identity(&text), record::read_settings(&text));
});
