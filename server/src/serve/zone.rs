//! Time zones: from the machine's zoneinfo, else from the copy that is built in.

use crate::model::window::{Gate, Window};
use crate::store::groups::Group;
use jiff::tz::TimeZone;

/// A zone by its name, such as `Europe/Amsterdam`.
///
/// # Errors
/// That there is none of this name.
pub fn get(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("zone \"{name}\": want a name such as Europe/Amsterdam or UTC"))
}

/// Whether jobs may be offered to a group now. What was checked when it was set and cannot be read any more holds nothing
/// up.
pub fn gate(group: &Option<Group>, now: i64) -> Gate {
    let Some(group) = group else { return Gate::Always };
    let window = group.window.as_deref().and_then(|text| Window::parse(text).ok());
    match (window, get(&group.zone)) {
        (Some(window), Ok(zone)) => window.gate(&zone, now, &group.name),
        _ => Gate::Always,
    }
}
