//! Futures that do not lie in the frame of who awaits them.

use std::future::Future;

use futures::future::BoxFuture;

/// Makes a future on the heap. A frame of a build without optimisation has room for each future that its function makes,
/// more than once; one that is made in here is in this frame, which is gone when it is polled. For what goes deep: a task's
/// handler, a call of an SDK.
#[inline(never)]
pub fn boxed<'a, F>(make: impl FnOnce() -> F) -> BoxFuture<'a, F::Output>
where
    F: Future + Send + 'a,
{
    Box::pin(make())
}
