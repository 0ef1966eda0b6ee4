//! Landlock: from here on no file is opened, no port bound, no stranger signalled, whatever
//! the user's rights are (the kernel's `Documentation/userspace-api/landlock.rst`).

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    RulesetStatus, Scope,
};

/// The newest rights that are asked for; an older kernel enforces those it knows.
const NEWEST: ABI = ABI::V6;

/// Forbids everything Landlock knows. No rule allows anything back: what the machine works
/// with is open already.
pub(super) fn forbid(missing: &mut Vec<String>) {
    match restrict() {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(RulesetStatus::PartiallyEnforced) => {
            missing.push("Landlock: this kernel enforces only part of it".to_owned());
        }
        Ok(RulesetStatus::NotEnforced) => {
            missing.push("Landlock: this kernel has none".to_owned());
        }
        Err(error) => missing.push(format!("Landlock: {error}")),
    }
}

fn restrict() -> Result<RulesetStatus, RulesetError> {
    // Removing the own sockets' files at the end stays possible; the directory's rights
    // decide about it.
    let files = AccessFs::from_all(NEWEST) & !AccessFs::RemoveFile;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(files)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset)
}
