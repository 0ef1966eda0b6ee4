//! The threads on which images are fetched, for callers that are none of them.

use tokio::runtime::{Handle, Runtime};

use crate::failure::Failure;

/// A runtime of its own, shut down without waiting when dropped.
pub struct Threads {
    handle: Handle,
    /// Taken out when dropped.
    runtime: Option<Runtime>,
}

impl Threads {
    /// Starts them.
    pub fn start(name: &str) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name(name)
            .enable_all()
            .build()
            .map_err(|e| {
                let cause = format!("no threads to read images with: {e}");
                Failure::new(cause, "free some memory")
            })?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Where tasks are started.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `future` there and waits for its result.
    pub fn wait_for<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        let (done, result) = std::sync::mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let _ = done.send(future.await);
        });
        result
            .recv()
            .map_err(|_| Failure::new("reading images was ended", "start the command again"))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
