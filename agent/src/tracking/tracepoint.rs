//! Where the fields of the block layer's tracepoints stand, as tracefs tells
//! (Documentation/trace/events.rst of Linux, "Event formats").

use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

/// Where it belongs.
const PLACE: &str = "/sys/kernel/tracing";

/// Offsets, in bytes, of what the program reads of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Device number, 4 bytes.
    pub device: u32,
    /// First sector, 8 bytes.
    pub sector: u32,
    /// Number of sectors, 4 bytes.
    pub count: u32,
    /// Letters of what is done.
    pub kind: u32,
}

/// Where the kernel shows its tracepoints; mounted when nobody has.
pub fn tracefs() -> Option<PathBuf> {
    let shown = || {
        [PLACE, "/sys/kernel/debug/tracing"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.join("events/block").is_dir())
    };
    shown().or_else(|| {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("tracefs", PLACE, "tracefs", flags, None).ok()?;
        shown()
    })
}

/// Reads an event's format. The error says what of it is not as it must be.
pub fn read(tracefs: &Path, event: &str) -> Result<Fields, String> {
    let path = tracefs.join("events/block").join(event).join("format");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    fields(&text).map_err(|reason| format!("{}: {reason}", path.display()))
}

fn fields(format: &str) -> Result<Fields, String> {
    let field = |name: &str, size: u32| {
        let (at, found) = place(format, name).ok_or(format!("it has no field '{name}'"))?;
        match found >= size {
            true => Ok(at),
            false => Err(format!("its field '{name}' has {found} bytes")),
        }
    };
    Ok(Fields {
        device: field("dev", 4)?,
        sector: field("sector", 8)?,
        count: field("nr_sector", 4)?,
        kind: field("rwbs", 2)?,
    })
}

/// Offset and size of a field.
fn place(format: &str, name: &str) -> Option<(u32, u32)> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().strip_prefix("field:")?.split(';');
        let declared = parts.next()?.rsplit([' ', '\t']).next()?;
        let declared = declared.split('[').next()?;
        if declared != name {
            return None;
        }
        let mut number = |key: &str| parts.next()?.trim().strip_prefix(key)?.parse().ok();
        Some((number("offset:")?, number("size:")?))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const COMPLETE: &str = "name: block_rq_complete
ID: 2107
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;

\tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;
\tfield:sector_t sector;\toffset:16;\tsize:8;\tsigned:0;
\tfield:unsigned int nr_sector;\toffset:24;\tsize:4;\tsigned:0;
\tfield:int error;\toffset:28;\tsize:4;\tsigned:1;
\tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;
";

    #[test]
    fn offsets_are_taken_from_the_format() {
        let expected = Fields {
            device: 8,
            sector: 16,
            count: 24,
            kind: 34,
        };
        assert_eq!(fields(COMPLETE).unwrap(), expected);
    }

    /// Guards against reading something else for a field that another kernel has not.
    #[test]
    fn a_field_that_is_missing_or_too_short_is_named() {
        let error = fields(&COMPLETE.replace("nr_sector", "length")).unwrap_err();
        assert!(error.contains("'nr_sector'"), "{error}");
        let error = fields(&COMPLETE.replace("offset:16;\tsize:8", "offset:16;\tsize:4"));
        assert!(error.unwrap_err().contains("'sector' has 4 bytes"));
    }
}
