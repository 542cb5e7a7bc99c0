//! Import when something goes wrong in the middle: while the image is uploaded, and while EC2 imports it. Separate
//! processes. Every test proves that its fault came in the middle.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use awssim::faults::{Effect, Rule};
use snapferry_api::job::{Job, JobState};
use snapferry_testkit::eventually;
use snapferry_tests::{Rig, RigOptions, SERVICE, TestInstance};
use snapferry_types::{JobId, RecoveryPointId, TaskState, TransportWish};

const BOUND: Duration = Duration::from_secs(60);
/// Data of a volume: an image of several parts of 16 MiB.
const DATA_MIB: u64 = 40;

fn options() -> RigOptions {
    RigOptions { n_agents: 2, with_service_resources: true, ..RigOptions::default() }
}

/// What hangs, and where that is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Some parts of the image are uploaded, others are not.
    Upload,
    /// EC2 has taken the import and does not get on with it.
    Import,
}

impl Stage {
    fn rule(self) -> Rule {
        match self {
            Self::Upload => {
                Rule { skip: 2, ..Rule::new(Effect::Hang { seconds: None }).on("s3", "UploadPart") }
            }
            Self::Import => Rule::new(Effect::Hang { seconds: Some(15.0) }).on("vmie", "ImportSnapshot"),
        }
    }

    /// What the job is said to do.
    fn phase(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Import => "import",
        }
    }

    /// What the service account has while it hangs.
    fn kind(self) -> &'static str {
        match self {
            Self::Upload => "s3_uploads",
            Self::Import => "import_tasks",
        }
    }
}

struct Prepared {
    rig: Rig,
    instance: TestInstance,
    content: Vec<Vec<u64>>,
    point: RecoveryPointId,
}

async fn prepared(options: RigOptions) -> Prepared {
    let rig = Rig::start(options).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", DATA_MIB).unwrap();
    let content = instance.content(rig.sim.context()).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    Prepared { rig, instance, content, point }
}

impl Prepared {
    /// Starts a restore and brings it to a stage; answers the agent that works at it.
    async fn hanging(&self, stage: Stage) -> (JobId, usize) {
        let rig = &self.rig;
        rig.hurt(stage.rule());
        let job = rig.restore_by(self.point, TransportWish::Import, None).await.unwrap();
        let hangs = || async { rig.fired() > 0 && in_account(rig, stage.kind()) > 0 };
        eventually(BOUND, "it hangs in the middle", hangs).await.unwrap();
        let says = |job: &Job| {
            let progress = &job.tasks[0].progress;
            progress.phase == stage.phase() && progress.phase_percent.is_some_and(|percent| percent < 100)
        };
        let now = rig.wait(job, "the job says how far it is", says).await.unwrap();
        let node = now.tasks[0].access_node.unwrap();
        (job, rig.agent_of(node).await.unwrap())
    }

    async fn ends_after_a_kill(mut self, stage: Stage) {
        let (job, index) = self.hanging(stage).await;
        self.rig.agents[index].kill9().unwrap();
        assert!(in_account(&self.rig, stage.kind()) > 0, "the kill came after the {stage:?}");
        assert!(self.rig.n_staged(index) > 0, "the killed agent has no image");
        self.rig.sim.context().faults.set_rules(Vec::new());
        let rig = &self.rig;
        let done = rig.succeed(job).await.unwrap();
        assert!(done.tasks[0].attempts >= 2, "{done:#?}");
        let other = rig.agent_of(done.tasks[0].access_node.unwrap()).await.unwrap();
        assert_ne!(other, index, "the killed agent cannot have ended it");
        self.instance.check(rig.sim.context(), &done, &self.content).unwrap();
        rig.only_these_are_left(2, 4).await.unwrap();
        assert_eq!(rig.n_staged(other), 0, "who ends it clears up behind itself");
        if stage == Stage::Import {
            // Both volumes were imported at the time of the kill, or the second one after it: never one of them twice.
            assert_eq!(rig.calls("vmie", "ImportSnapshot"), 2);
        }

        // The killed agent's images are of no use any more, and it learns that when it is there again.
        assert!(rig.n_staged(index) > 0);
        self.rig.start_again(index).unwrap();
        let rig = &self.rig;
        let is_swept = || async { rig.n_staged(index) == 0 };
        eventually(BOUND, "the images of the killed agent are swept", is_swept).await.unwrap();
    }

    /// Nobody is there to end it: what it made is the reaper's.
    async fn leaves_nothing_when_killed_and_cancelled(&mut self, stage: Stage) {
        let (job, index) = self.hanging(stage).await;
        self.rig.agents[index].kill9().unwrap();
        let rig = &self.rig;
        assert!(in_account(rig, stage.kind()) > 0, "the kill came after the {stage:?}");
        rig.sim.context().faults.set_rules(Vec::new());
        rig.client.cancel_job(job).await.unwrap();
        let ended = rig.wait(job, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
        assert_eq!(ended.summary.state, JobState::Cancelled, "{ended:#?}");
        rig.only_these_are_left(2, 2).await.unwrap();
    }

    async fn leaves_nothing_when_cancelled(self, stage: Stage) {
        let (job, index) = self.hanging(stage).await;
        let rig = &self.rig;
        assert!(in_account(rig, stage.kind()) > 0);
        rig.client.cancel_job(job).await.unwrap();
        let ended = rig.wait(job, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
        assert_eq!(ended.summary.state, JobState::Cancelled, "{ended:#?}");
        rig.only_these_are_left(2, 2).await.unwrap();
        assert_eq!(rig.n_staged(index), 0, "an image is left on the node");
    }
}

fn in_account(rig: &Rig, kind: &str) -> usize {
    rig.sim.context().world.inventory(Some(SERVICE)).get(kind).map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_ends_an_upload_in_the_middle_of_which_the_first_was_killed() {
    prepared(options()).await.ends_after_a_kill(Stage::Upload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_ends_an_import_in_the_middle_of_which_the_first_was_killed() {
    prepared(options()).await.ends_after_a_kill(Stage::Import).await;
}

/// Cuts off the whole images below a folder, as a disk that lost its last writes does; answers how many there were.
fn cut_off_images(folder: &Path) -> usize {
    let mut n_cut = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            n_cut += cut_off_images(&path);
        } else if path.extension().is_some_and(|extension| extension == "vmdk") {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            n_cut += 1;
        }
    }
    n_cut
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_cut_off_between_two_attempts_is_written_anew() {
    let options = RigOptions { n_agents: 1, ..options() };
    let mut prepared = prepared(options).await;
    let (job, index) = prepared.hanging(Stage::Upload).await;
    prepared.rig.agents[index].kill9().unwrap();
    assert!(cut_off_images(&prepared.rig.dir.join("staging")) > 0, "no image was whole");
    prepared.rig.sim.context().faults.set_rules(Vec::new());
    prepared.rig.start_again(index).unwrap();
    let rig = &prepared.rig;
    let done = rig.succeed(job).await.unwrap();
    let errors = done.tasks[0].history.iter().filter_map(|attempt| attempt.error.as_ref());
    let messages: Vec<&str> = errors.map(|error| error.message.as_str()).collect();
    assert!(messages.iter().any(|message| message.contains("written anew")), "{messages:#?}");
    prepared.instance.check(rig.sim.context(), &done, &prepared.content).unwrap();
    rig.only_these_are_left(2, 4).await.unwrap();
    assert_eq!(rig.n_staged(index), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cancelled_in_the_middle_leaves_nothing() {
    let options = RigOptions { n_agents: 1, ..options() };
    prepared(options).await.leaves_nothing_when_cancelled(Stage::Upload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_of_uploads_and_imports_goes_when_they_are_cancelled() {
    let mut prepared = prepared(RigOptions { n_agents: 1, ..options() }).await;
    prepared.leaves_nothing_when_killed_and_cancelled(Stage::Upload).await;
    prepared.rig.add_agent().unwrap();
    prepared.leaves_nothing_when_killed_and_cancelled(Stage::Import).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_suspended_in_the_middle_is_ended_when_it_is_resumed() {
    let prepared = prepared(options()).await;
    let (job, _) = prepared.hanging(Stage::Upload).await;
    let rig = &prepared.rig;
    rig.client.suspend_job(job).await.unwrap();
    let is_suspended = |job: &Job| job.summary.state == JobState::Suspended;
    rig.wait(job, "it is suspended", is_suspended).await.unwrap();
    rig.sim.context().faults.set_rules(Vec::new());
    assert!(is_suspended(&rig.client.job(job).await.unwrap()), "it went on by itself");
    rig.client.resume_job(job).await.unwrap();
    let done = rig.succeed(job).await.unwrap();
    let outcomes: Vec<&str> = done.tasks[0].history.iter().map(|one| one.outcome.as_str()).collect();
    assert_eq!(outcomes, ["yielded", "succeeded"]);
    prepared.instance.check(rig.sim.context(), &done, &prepared.content).unwrap();
    rig.only_these_are_left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_cancelled_in_the_middle_leaves_nothing() {
    let options = RigOptions { n_agents: 1, ..options() };
    prepared(options).await.leaves_nothing_when_cancelled(Stage::Import).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_ends_in_an_error_is_named_with_its_message_and_begun_again() {
    let prepared = prepared(RigOptions { n_agents: 1, ..options() }).await;
    let rig = &prepared.rig;
    let failing = || {
        let message = Some("Disk validation failed [unsupported sector]".to_owned());
        let effect = Effect::Error { status: 400, code: "ClientError".to_owned(), message, reason: None };
        Rule::new(effect).on("vmie", "ImportSnapshot")
    };
    let names_it = |job: &Job| {
        let errors = job.tasks[0].history.iter().filter_map(|attempt| attempt.error.as_ref());
        let messages: Vec<&str> = errors.map(|error| error.message.as_str()).collect();
        let is_named = |message: &&str| {
            message.contains("import task import-snap-") && message.contains("Disk validation failed")
        };
        assert!(!messages.is_empty() && messages.iter().all(is_named), "{messages:#?}");
    };

    rig.hurt(failing().times(1));
    let job = rig.restore_by(prepared.point, TransportWish::Import, None).await.unwrap();
    let done = rig.succeed(job).await.unwrap();
    assert_eq!((rig.fired(), done.tasks[0].attempts), (1, 2));
    names_it(&done);
    let n_uploads = rig.calls("s3", "CompleteMultipartUpload");
    assert_eq!(n_uploads, 2, "an image that is uploaded is imported again as it is");
    prepared.instance.check(rig.sim.context(), &done, &prepared.content).unwrap();
    rig.only_these_are_left(2, 4).await.unwrap();

    // When the next attempt is cancelled in the middle, nothing is left of either.
    let hang = Rule { skip: 1, ..Stage::Import.rule() };
    rig.sim.context().faults.set_rules(vec![failing().times(1), hang]);
    let job = rig.restore_by(prepared.point, TransportWish::Import, None).await.unwrap();
    let goes_on = |job: &Job| {
        let task = &job.tasks[0];
        task.state == TaskState::Running && !task.history.is_empty() && task.progress.phase == "import"
    };
    names_it(&rig.wait(job, "another attempt imports", goes_on).await.unwrap());
    rig.client.cancel_job(job).await.unwrap();
    let ended = rig.wait(job, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    assert_eq!(ended.summary.state, JobState::Cancelled, "{ended:#?}");
    rig.only_these_are_left(2, 4).await.unwrap();
    assert_eq!(rig.n_staged(0), 0, "an image is left on the node");
}
