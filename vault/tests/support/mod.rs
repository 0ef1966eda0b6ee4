//! A real vault process and a client of it, for whole-process tests.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use relevo_wire::chunk::{Chunk, Compressor, SealedChunk};
use relevo_wire::client::{self, ClientError, VaultConnection};
use relevo_wire::enrollment::{Enrollment, Token};
use relevo_wire::identity::Identity;
use relevo_wire::index::{ChunkRef, Extent, Node, TreeBuilder};
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::{
    Consistency, DiskImage, MANIFEST_VERSION, ManifestBody, PublicManifest, RunTotals,
    SealedManifest, SealedRef,
};
use relevo_wire::message::{Request, Response};
use relevo_wire::{PointId, ServerId, SessionId, Timestamp};

pub const BIN: &str = env!("CARGO_BIN_EXE_relevo-vault");

/// Runs a command of the vault to its end.
pub fn vault(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BIN);
    command
        .arg(arguments[0])
        .arg("--dir")
        .arg(dir)
        .args(&arguments[1..]);
    command.output().unwrap()
}

pub fn json(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: '{text}' {}", String::from_utf8_lossy(&output.stderr)))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A new vault's directory.
pub fn new_vault() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("vault");
    let made = vault(&dir, &["init", "--name", "test"]);
    assert!(made.status.success(), "{}", stderr(&made));
    (parent, dir)
}

/// A vault that serves; killed when dropped.
pub struct Serving {
    child: Child,
    pub address: String,
}

impl Serving {
    pub fn start(dir: &Path) -> Self {
        Self::start_at(dir, "127.0.0.1:0")
    }

    pub fn start_at(dir: &Path, address: &str) -> Self {
        let mut child = Command::new(BIN)
            .args(["serve", "--json", "--listen", address, "--dir"])
            .arg(dir)
            .env("RELEVO_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| {
            let _ = child.kill();
            panic!("the vault did not start: {e}: '{line}'")
        });
        let address = ready["listening"].as_str().unwrap().to_string();
        Self { child, address }
    }

    /// Ends it as a power cut of the process would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as a service manager would.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(
            self.child.wait().unwrap().success(),
            "a clean stop is no failure"
        );
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A vault that serves, its tenant's keys, an enrolled agent and recovery site.
pub struct Lab {
    pub _keep: tempfile::TempDir,
    pub dir: PathBuf,
    pub keys: OpeningKeys,
    pub serving: Serving,
    pub agent: Enrollment,
    pub site: Enrollment,
}

impl Lab {
    pub async fn start() -> Self {
        let (keep, dir) = new_vault();
        let keys = OpeningKeys::generate().unwrap();
        let serving = Serving::start(&dir);
        let agent = enroll(&dir, &serving.address, "agent", &keys).await;
        let site = enroll(&dir, &serving.address, "recovery", &keys).await;
        Self {
            _keep: keep,
            dir,
            keys,
            serving,
            agent,
            site,
        }
    }
}

pub fn token(dir: &Path, role: &str, more: &[&str]) -> Token {
    let made = vault(dir, &[&["token", "--json", "--role", role], more].concat());
    assert!(made.status.success(), "{}", stderr(&made));
    json(&made)["token"].as_str().unwrap().parse().unwrap()
}

pub async fn enroll(dir: &Path, address: &str, role: &str, keys: &OpeningKeys) -> Enrollment {
    let token = token(dir, role, &[]);
    client::enroll(address, &token, role, keys.sealing.tenant)
        .await
        .unwrap()
}

/// As after a restart on another port.
pub fn moved(mut enrollment: Enrollment, address: &str) -> Enrollment {
    enrollment.vault = address.into();
    enrollment
}

/// A disk image, sealed.
pub struct Image {
    pub chunks: Vec<SealedChunk>,
    pub data: Vec<(ChunkRef, Vec<u8>)>,
    pub manifest: SealedManifest,
    pub public: PublicManifest,
}

/// Noise that a seed names.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// An image of `spans` spans of four chunks of 64 KiB, of noise named by `seed`.
pub fn image(keys: &OpeningKeys, server: ServerId, seed: u64, spans: u64) -> Image {
    let secret = &keys.sealing.secret;
    let mut compressor = Compressor::new();
    let (mut chunks, mut data) = (Vec::new(), Vec::new());
    let mut tree = TreeBuilder::new(secret.clone(), spans * relevo_wire::index::SPAN);
    let reference = |chunk: &SealedChunk| ChunkRef {
        id: chunk.id(),
        key: chunk.key(),
    };
    for span in 0..spans {
        let mut extents = Vec::new();
        for part in 0..4 {
            let plaintext = noise(seed << 32 | span << 8 | part, 64 * 1024);
            let chunk = Chunk::new(secret, &plaintext).seal(&mut compressor);
            extents.push(Extent::Data {
                length: 64 * 1024,
                chunk: reference(&chunk),
            });
            data.push((reference(&chunk), plaintext));
            chunks.push(chunk);
        }
        let leaf = Node::Leaf(extents).seal(secret);
        tree.push(Some(reference(&leaf)), &mut |node| chunks.push(node));
        chunks.push(leaf);
    }
    let root = tree.finish(&mut |node| chunks.push(node)).unwrap();
    let public = PublicManifest {
        version: MANIFEST_VERSION,
        server,
        point: PointId::random(),
        taken: Timestamp::now(),
        roots: vec![],
        inventory: vec![],
        totals: RunTotals::default(),
    };
    let manifest = manifest_with_root(keys, &public, SealedRef::node(root));
    let public = manifest.public().unwrap();
    Image {
        chunks,
        data,
        manifest,
        public,
    }
}

/// A manifest of one disk with this root.
pub fn manifest_with_root(
    keys: &OpeningKeys,
    public: &PublicManifest,
    root: SealedRef,
) -> SealedManifest {
    manifest_of(keys, public, root, vec![])
}

/// A manifest that names a chunk of the image so often as its inventory, `later` than others.
pub fn manifest_with_parts(
    keys: &OpeningKeys,
    image: &Image,
    parts: usize,
    later: u64,
) -> SealedManifest {
    let root = ChunkRef {
        id: image.public.roots[0],
        key: image.data[0].0.key,
    };
    let mut public = image.public.clone();
    public.taken = public.taken.plus(std::time::Duration::from_secs(later));
    let part = SealedRef::data(image.data[0].0, 65536);
    manifest_of(keys, &public, SealedRef::node(root), vec![part; parts])
}

fn manifest_of(
    keys: &OpeningKeys,
    public: &PublicManifest,
    root: SealedRef,
    inventory: Vec<SealedRef>,
) -> SealedManifest {
    let body = ManifestBody {
        disks: vec![DiskImage {
            name: "sda".into(),
            size: 1 << 40,
            root: Some(root),
            sector: 512,
            serial: None,
            faults: None,
        }],
        inventory,
        consistency: Consistency::Offline,
        chunker: 1,
        agent: "test".into(),
        started: Timestamp::now(),
        finished: Timestamp::now(),
        held: None,
    };
    SealedManifest::seal(&keys.sealing, public.clone(), &body).unwrap()
}

pub fn server_of(enrollment: &Enrollment) -> ServerId {
    match enrollment.identity().unwrap() {
        Identity::Agent { server, .. } => server,
        other => panic!("{other}"),
    }
}

pub async fn session(vault: &VaultConnection) -> SessionId {
    match vault.request(&Request::OpenSession).await.unwrap() {
        Response::SessionOpened { session } => session,
        other => panic!("{other:?}"),
    }
}

pub async fn commit(
    vault: &VaultConnection,
    session: SessionId,
    image: &Image,
) -> Result<Response, ClientError> {
    let manifest = image.manifest.clone();
    vault.request(&Request::Commit { session, manifest }).await
}

/// Uploads and commits.
pub async fn back_up(vault: &VaultConnection, image: &Image) -> Response {
    let session = session(vault).await;
    for chunks in image.chunks.chunks(64) {
        vault.put(session, chunks).await.unwrap();
    }
    commit(vault, session, image).await.unwrap()
}

/// Reads every data chunk back and compares; panics with the first that differs.
pub async fn read_back(site: &VaultConnection, image: &Image) {
    let ids = image
        .data
        .iter()
        .map(|(reference, _)| reference.id)
        .collect();
    let mut stream = site.get(ids).await.unwrap();
    for (reference, plaintext) in &image.data {
        let chunk = stream.next().await.unwrap().unwrap();
        assert!(chunk.open(&reference.key, plaintext.len()).unwrap() == *plaintext);
    }
    assert!(stream.next().await.is_none());
}

/// Every file of a vault's packs.
pub fn packs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for tenant in std::fs::read_dir(dir.join("packs")).unwrap() {
        for pack in std::fs::read_dir(tenant.unwrap().path()).unwrap() {
            found.push(pack.unwrap().path());
        }
    }
    found.sort();
    found
}
