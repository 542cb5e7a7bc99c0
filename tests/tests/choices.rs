//! What Automatic takes in the whole system: prices and quotas of the node decide, and the job says what was taken, out
//! of what, and why. What was taken is then really done.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use snapferry_api::job::Job;
use snapferry_tests::{Rig, RigOptions, TestInstance, write_data};
use snapferry_types::{Transport, TransportWish};

/// Calls of AWS that only one transport makes.
fn traces(rig: &Rig) -> [u64; 3] {
    [
        rig.calls("ebs", "PutSnapshotBlock"),
        rig.calls("ec2", "AttachVolume"),
        rig.calls("ec2", "ImportSnapshot"),
    ]
}

/// The number of blocks that a reason speaks of.
fn told_blocks(reason: &str) -> u64 {
    let (_, told) = reason.split_once("; about ").unwrap();
    told.split_once(" blocks").unwrap().0.parse().unwrap()
}

/// The sentence in which a job says what was chosen: all alternatives, in their order, each with time and money.
fn reason(job: &Job) -> String {
    let mut notes = job.tasks.iter().flat_map(|task| &task.notes);
    let note = notes.find(|note| note.text.contains("the least in money and time of"));
    note.unwrap_or_else(|| panic!("nothing is said in {job:#?}")).text.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_and_quotas_of_the_node_decide_what_automatic_takes_and_the_job_says_why() {
    let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
    let mut rig = Rig::start(options).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 8).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let n_blocks = rig.calls("ebs", "GetSnapshotBlock");
    assert!(n_blocks > 0);
    let original = std::fs::read_to_string(rig.dir.join("agent-1.toml")).unwrap();
    let cases = [
        ("", Transport::EbsDirect),
        ("[agent.quotas]\nput_per_second = 0.05", Transport::HotAdd),
        ("[agent.prices]\nput_per_thousand = 10.0", Transport::HotAdd),
        ("[agent.prices]\nput_per_thousand = 10.0\nvolume_gib_month = 1_000.0", Transport::Import),
    ];
    for (lines, wanted) in cases {
        if !lines.is_empty() {
            rig.reconfigure_agent(|_| format!("{original}\n{lines}\n")).await.unwrap();
        }
        let before = traces(&rig);
        let id = rig.restore_by(point, TransportWish::Automatic, None).await.unwrap();
        let job = rig.succeed(id).await.unwrap();
        let reason = reason(&job);
        assert!(reason.starts_with(&format!("blocks are moved by {}", wanted.as_str())), "{lines}: {reason}");
        // What there is to move is counted: the blocks that the library has of the volumes, without their holes.
        assert_eq!(told_blocks(&reason), n_blocks, "{lines}: {reason}");
        for transport in Transport::ALL {
            assert!(reason.contains(&format!("{} ", transport.as_str())), "{lines}: {reason}");
        }
        assert!(!reason.contains("not possible"), "{lines}: {reason}");
        let did: Vec<u64> = traces(&rig).iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(
            did.iter().map(|n| *n > 0).collect::<Vec<_>>(),
            Transport::ALL.map(|transport| transport == wanted),
            "{lines}"
        );
        if wanted == Transport::EbsDirect {
            assert_eq!(did[0], n_blocks, "each was put once");
        }
        instance.check(&sim, &job, &content).unwrap();
        rig.nothing_is_left().unwrap();
    }

    // A full backup has the same choice, but for Import, which only writes; an incremental by what has changed.
    rig.reconfigure_agent(|_| format!("{original}\n[agent.prices]\nget_per_thousand = 10.0\n"))
        .await
        .unwrap();
    let other = TestInstance::place(&sim, "two", 8).unwrap();
    let id = rig.back_up_by(&other.id, TransportWish::Automatic).await.unwrap();
    let reason = reason(&rig.succeed(id).await.unwrap());
    assert!(reason.starts_with("blocks are moved by hot_add"), "{reason}");
    assert!(reason.contains("import not possible: Import only writes"), "{reason}");
    write_data(&sim, &other.volumes[1], 300, 1, 7).unwrap();
    let before = rig.calls("ebs", "GetSnapshotBlock");
    let id = rig.back_up_by(&other.id, TransportWish::Automatic).await.unwrap();
    let job = rig.succeed(id).await.unwrap();
    let few = self::reason(&job);
    assert!(few.starts_with("blocks are moved by ebs_direct"), "{few}");
    assert_eq!(told_blocks(&few), 2, "{few}");
    assert_eq!(rig.calls("ebs", "GetSnapshotBlock") - before, 2);
    rig.only_these_are_left(4, 2 + 2 * 4 + 2).await.unwrap();
}
