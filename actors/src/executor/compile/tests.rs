//! Permits, deadlines and limits of compilations, and what the end of a child means.

use super::*;

/// What the child's side makes of a request of this build. Its limits are those of this process already.
fn asked(build: &[u8; 32]) -> Result<Vec<u8>, (u8, String)> {
    let mut request = MAGIC.to_vec();
    request.extend_from_slice(&[0; 32]);
    request.extend_from_slice(build);
    request.extend_from_slice(b"\0asm\x01\0\0\0");
    let mut answer = Vec::new();
    request_from(&mut request.as_slice(), &mut answer, |_| Ok(())).map(|()| answer)
}

#[test]
fn a_child_compiles_for_its_own_build_alone_and_says_which_that_is() {
    for profile in Profile::ALL {
        let own = build(&Engine::new(&engine::settings(profile)).unwrap());
        let answer = asked(own.as_bytes()).unwrap();
        assert!(answer.starts_with(&[ANSWER.as_slice(), own.as_bytes()].concat()) && answer.len() > 100);
    }
    let (code, message) = asked(&[7; 32]).unwrap_err();
    assert_eq!(code, EXIT_OTHER_BUILD);
    assert!(message.contains("another build"), "{message}");
}

#[test]
fn the_time_of_a_process_is_read_whatever_its_name() {
    let stat = "7 (a) b (c) R 1 7 7 0 -1 4194560 100 0 0 0 12 30 0 0 39 19 1 0 100 0 0";
    assert_eq!(cpu_in(stat), Some(Duration::from_millis(420)));
    assert_eq!(cpu_in("7 (a) R 1"), None);
    assert!(cpu_of(std::process::id()).is_some());
}

#[tokio::test]
async fn a_small_module_has_a_permit_that_no_large_one_takes() {
    let config = CompileConfig { permits: 1, wait_ms: 10, ..CompileConfig::default() };
    let compiler = Compiler::new(config);
    let permit = async |lane| compiler.permit(None, lane, compiler.deadline()).await;
    let large = permit(Lane::of(SMALL_WEIGHT + 1)).await.unwrap();
    assert_eq!(permit(Lane::Large).await.err(), Some(PrepareError::Busy));
    let small = permit(Lane::of(SMALL_WEIGHT)).await.unwrap();
    assert_eq!((large.lane(), small.lane()), (Lane::Large, Lane::Small));
    assert_eq!(permit(Lane::Small).await.err(), Some(PrepareError::Busy));
    // A small one takes what is free.
    drop(large);
    assert_eq!(permit(Lane::Small).await.unwrap().lane(), Lane::Large);
}

#[tokio::test(start_paused = true)]
async fn a_module_that_only_looked_small_has_no_more_time_than_another() {
    let compiler = Compiler::new(CompileConfig::default());
    let (begun, first) = (Instant::now(), compiler.deadline());
    let CompileConfig { wait_ms, wall_ms, cpu_s, .. } = CompileConfig::default();
    assert_eq!(first.done - begun, Duration::from_millis(wait_ms + wall_ms));
    tokio::time::advance(Duration::from_secs(3)).await;
    let second = compiler.once_more(first);
    assert_eq!((second.done, second.done - second.permit), (first.done, Duration::from_secs(cpu_s)));
    // Where a child has no more time than that, it has its permit as early as any other.
    let tight = Compiler::new(CompileConfig { wall_ms: 100, ..CompileConfig::default() });
    let first = tight.deadline();
    assert_eq!(tight.once_more(first), first);
}

#[test]
fn children_with_large_modules_are_nicer_than_those_with_small_ones_and_not_the_nicest() {
    let compiler = Compiler::new(CompileConfig::default());
    let nice = |lane| compiler.limits(lane)[3];
    assert!(0 < nice(Lane::Small) && nice(Lane::Small) < nice(Lane::Large) && nice(Lane::Large) <= 10);
}

#[test]
fn what_the_kernel_killed_says_nothing_about_the_module() {
    let killed = |signal| verdict(ExitStatus::from_raw(signal), b"");
    assert_eq!(killed(SIGKILL), PrepareError::HostShort { which: CompileResource::Memory });
    assert_eq!(killed(SIGXCPU), PrepareError::Rejected(Rejection::CompileLimit { which: CompileResource::Cpu }));
}
