//! Recovery points: showing, listing, deleting.

use snapferry_types::RecoveryPointId;

use super::open::finish_deletion;
use super::{Library, lock};
use crate::error::Error;
use crate::limits::MAX_LIST;
use crate::point::{PointVolume, RecoveryPoint};

impl Library {
    /// A recovery point.
    ///
    /// # Errors
    /// [`Error::UnknownRecoveryPoint`].
    pub fn recovery_point(&self, id: RecoveryPointId) -> Result<RecoveryPoint, Error> {
        self.index.point(id)?.ok_or(Error::UnknownRecoveryPoint(id))
    }

    /// Recovery points in the order of their ids (that of the opening of their sessions), after `after`; at most
    /// `max`, and at most 1,024. Their metadata is left out (empty): ask for it one by one.
    ///
    /// # Errors
    /// What the index says.
    pub fn recovery_points(
        &self,
        after: Option<RecoveryPointId>,
        max: usize,
    ) -> Result<Vec<RecoveryPoint>, Error> {
        let snapshot = self.index.snapshot();
        let points = self.index.points_of(&snapshot, after).take(max.min(MAX_LIST));
        points.map(|point| Ok(RecoveryPoint { metadata: Vec::new(), ..point? })).collect()
    }

    /// Deletes a recovery point; false when there is none. What only it refers to becomes garbage, and is removed
    /// by the next collection. Sessions that have it as their base are not touched.
    ///
    /// # Errors
    /// A deletion that failed half way is finished by the next call or at the next open; the recovery point is
    /// not shown any more.
    pub fn delete_recovery_point(&self, id: RecoveryPointId) -> Result<bool, Error> {
        let _turn = lock(&self.flush);
        let row = id.as_u128().to_be_bytes();
        if !self.index.points.contains_key(row).map_err(Error::index("read"))? {
            return Ok(false);
        }
        self.index.deleting.insert(row, []).map_err(Error::index("write"))?;
        self.index.persist()?;
        finish_deletion(self.config.backend.as_ref(), &self.index, id)?;
        Ok(true)
    }

    pub(super) fn point_volume(&self, id: RecoveryPointId, volume: &str) -> Result<PointVolume, Error> {
        let point = self.recovery_point(id)?;
        point.volume(volume).cloned().ok_or_else(|| Error::UnknownVolume(volume.to_owned()))
    }
}
