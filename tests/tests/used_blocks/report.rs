//! What a run reports of the areas of a disk.

use serde_json::Value;

pub fn bytes(report: &Value, name: &str) -> u64 {
    report[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// What the report says of the area at an offset.
pub fn area(report: &Value, offset: u64) -> &Value {
    let areas = report["areas"].as_array().map_or(&[][..], Vec::as_slice);
    let found = areas
        .iter()
        .find(|a| a["offset"] == offset && a["what"] != "LVM2 free");
    found.unwrap_or_else(|| panic!("nothing at {offset} in {report}"))
}

pub fn assert_looked_into(report: &Value, offset: u64, what: &str) {
    let area = area(report, offset);
    assert_eq!(area["what"], what, "{area}");
    assert!(area["read_whole"].is_null(), "{area}");
    assert!(area["read_more"].is_null(), "{area}");
    assert!(bytes(area, "used_bytes") < bytes(area, "length"), "{area}");
}

pub fn assert_read_whole(report: &Value, offset: u64, why: &str) {
    let area = area(report, offset);
    let said = area["read_whole"].as_str().unwrap_or_default();
    assert!(said.contains(why), "'{why}' is not said in {area}");
    assert_eq!(area["used_bytes"], area["length"], "{area}");
}
