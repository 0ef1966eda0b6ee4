//! Chunks from another vault of the same tenant, over the way that recovery sites read.

use std::path::Path;
use std::time::Duration;

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::client::{ClientError, VaultConnection};
use relevo_wire::enrollment::Enrollment;
use relevo_wire::identity::Identity;
use relevo_wire::{ChunkId, TenantId};

use crate::settings::HealFrom;

/// How long a batch may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Those of the chunks that the other vault has, each checked against its id. Nothing when it
/// is of another tenant; an error in words when it cannot be asked.
pub fn fetch(
    source: &HealFrom,
    tenant: TenantId,
    ids: &[ChunkId],
) -> Result<Vec<CheckedChunk>, String> {
    let path = match source.enrollment.is_dir() {
        true => source.enrollment.join("enrollment.toml"),
        false => source.enrollment.clone(),
    };
    let failed = |error: &dyn std::fmt::Display| in_words(&path, error);
    let enrollment = Enrollment::read(&path).map_err(|e| failed(&e))?;
    match enrollment.identity().map_err(|e| failed(&e))? {
        Identity::Recovery { tenant: theirs, .. } if theirs == tenant => {}
        Identity::Recovery { .. } => return Ok(Vec::new()),
        other => return Err(failed(&format!("{other} may not read chunks"))),
    }
    // A thread of its own: whoever heals may be one of another runtime.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| failed(&e))?;
            runtime.block_on(async {
                let got = tokio::time::timeout(PATIENCE, get(&enrollment, ids)).await;
                match got {
                    Ok(got) => got.map_err(|e| failed(&e)),
                    Err(_) => Err(failed(&"no answer in time")),
                }
            })
        });
        asked
            .join()
            .unwrap_or_else(|_| Err(failed(&"asking ended in a panic")))
    })
}

async fn get(enrollment: &Enrollment, ids: &[ChunkId]) -> Result<Vec<CheckedChunk>, ClientError> {
    let vault = VaultConnection::connect(enrollment).await?;
    let mut chunks = vault.get(ids.to_vec()).await?;
    let mut found = Vec::new();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => found.push(chunk),
            // It does not have it, or has it damaged too.
            Err(ClientError::MissingChunk(_) | ClientError::Chunk(_)) => {}
            Err(error) => {
                if found.is_empty() {
                    return Err(error);
                }
                break;
            }
        }
    }
    vault.close().await;
    Ok(found)
}

fn in_words(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("heal-from {}: {error}", path.display())
}
