//! Started snapshots whose blocks stopped coming.

use super::Backend;

/// Puts started snapshots for which no block came within their Timeout into the state `error` and drops their
/// blocks. Looks at most once a second of the simulator's clock, so it may be called as often as one likes: every
/// EBS call does, and whoever shows snapshot states should.
pub fn fail_expired<B: Backend>(backend: &B) {
    if !backend.faults().sweep_is_due() {
        return;
    }
    for id in backend.store().expired_snapshots(backend.faults().clock().now()) {
        backend.fail(&id);
        if let Err(error) = backend.store().delete_snapshot(&id) {
            tracing::warn!(snapshot = %id, error = %error, "expired snapshot's blocks stay");
        }
    }
}
