//! Trees in control groups of this host.

use super::*;

/// Limits by this host's own control groups, when they can be written; `apply` said by which.
fn real(world: &World, wanted: &spec::Limits) -> Option<(Limits, Applied)> {
    if own_uid().0 != 0 {
        return None;
    }
    let mut limits = Limits::detect(&world.state_dir, None);
    let applied = limits.apply(&"web".into(), wanted);
    (applied.cgroup.is_some() || !applied.cgroups.is_empty()).then_some((limits, applied))
}

const NO_GROUP: &str = "needs root and a control group hierarchy that can be written";

/// Starts `script` as the agent `web` inside its groups.
fn begin_in(world: &World, trees: &mut Trees, script: &str, applied: Applied) -> Process {
    let mut setup = world.setup("web", script);
    setup.cgroups = applied.cgroups;
    setup.cgroup = applied.cgroup;
    let leader = world.spawn(&setup);
    trees.started(&"web".into(), leader);
    leader
}

/// After the end of all processes nothing of ours stays in any hierarchy.
fn gone(world: &World, mut limits: Limits, trees: &mut Trees) -> Result<(), String> {
    let place = places(world);
    limits.release("web");
    wait_until("removed groups", trees, |_| {
        limits.remove_empty_groups();
        place.iter().all(|path| !Path::new(path).join("web").exists())
    })?;
    limits.close();
    check(place.iter().all(|path| !Path::new(path).exists()), "the group of all agents is removed")
}

/// Every directory of the name of our group, in any hierarchy.
fn places(world: &World) -> Vec<String> {
    let name = cgroup::group_name(&world.state_dir);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let all = cgroup::hierarchies(&mounts, &own);
    let paths = all.iter().map(|one| one.mount.join(&name)).filter(|path| path.exists());
    paths.map(|path| path.display().to_string()).collect()
}

pub fn a_group_holds_what_hides(world: &World) -> Verdict {
    let Some((limits, applied)) = real(world, &spec::Limits::default()) else { return Ok(Some(NO_GROUP)) };
    check(applied.enforcement.by.is_none(), "nothing is limited")?;
    let mut trees = world.trees();
    // An orphan in a session of its own with an empty environment, before anybody has looked.
    let leader = begin_in(world, &mut trees, "env -i setsid sh -c 'env -i sleep 1000 & exit 0'; exit 0", applied);
    wait_until("its end", &mut trees, |_| !proc::alive(leader))?;
    trees.ended("web");
    trees.forget_snapshot();
    check(trees.left("web", Scope::Tree, &world.none) == 0, "by descent and environment it is not known")?;
    trees.forget_snapshot();
    check(trees.left("web", Scope::Tree, &limits) == 1, "in the group it is")?;
    check(limits.populated("web") == Some(true), "which says so itself")?;
    // The next daemon finds it there.
    let mut next = world.trees();
    let mut later = Limits::detect(&world.state_dir, None);
    let hidden = leftovers(&mut next, &later).remove("web").ok_or("nothing is left over")?.processes[0];
    later.attach(&"web".into(), &spec::Limits::default(), &[hidden]);
    check(next.adopt(&"web".into(), hidden) && next.left("web", Scope::Tree, &later) == 1, "and takes it over")?;
    end(&mut trees, "web", &limits)?;
    gone(world, limits, &mut trees)?;
    Ok(None)
}

pub fn memory_is_limited_and_the_kill_is_known(world: &World) -> Verdict {
    let wanted = spec::Limits { memory: Some(20 << 20), ..spec::Limits::default() };
    let Some((mut limits, applied)) = real(world, &wanted) else { return Ok(Some(NO_GROUP)) };
    let by = applied.enforcement.by.clone().unwrap_or_default();
    if applied.enforcement.polled.memory {
        limits.release("web");
        limits.close();
        return Ok(Some("needs a memory controller"));
    }
    check(by.starts_with("cgroup"), &by)?;
    let mut trees = world.trees();
    let leader = begin_in(world, &mut trees, "exec tail /dev/zero", applied);
    let mut killed = None;
    wait_until("the kernel's kill", &mut trees, |_| {
        killed = killed.or_else(|| limits.oom_killed("web", !proc::alive(leader)));
        killed.is_some() && !proc::alive(leader)
    })?;
    let killed = killed.ok_or("the kill was not counted")?;
    check(killed.limit == 20 << 20 && killed.peak.is_none_or(|peak| peak > 10 << 20), &killed.to_string())?;
    trees.ended("web");
    // The next start is measured from where this one ended.
    let again = limits.apply(&"web".into(), &wanted);
    check(
        limits.oom_killed("web", true).is_none() && again.enforcement.by.as_deref() == Some(&*by),
        "a start begins anew",
    )?;
    let leader = begin_in(world, &mut trees, "exec sleep 1000", again);
    check(limits.usage("web").memory.is_some_and(|bytes| bytes <= 20 << 20), "its use is counted")?;
    let mut later = Limits::detect(&world.state_dir, None);
    // The child enters its groups after `spawn_child` has returned.
    wait_until("the limit set, as the next daemon finds it", &mut trees, |_| {
        later.attach(&"web".into(), &wanted, &[leader]).enforcement.by.as_deref() == Some(&*by)
    })?;
    end(&mut trees, "web", &limits)?;
    gone(world, limits, &mut trees)?;
    Ok(None)
}

pub fn processor_time_is_limited(world: &World) -> Verdict {
    let wanted = spec::Limits { cpu: Some(1000), ..spec::Limits::default() };
    let Some((mut limits, applied)) = real(world, &wanted) else { return Ok(Some(NO_GROUP)) };
    if applied.enforcement.polled.cpu {
        limits.release("web");
        limits.close();
        return Ok(Some("needs a cpu controller"));
    }
    let mut trees = world.trees();
    begin_in(world, &mut trees, "while :; do :; done & while :; do :; done", applied);
    wait_until("two loops", &mut trees, |trees| trees.left("web", Scope::Tree, &limits) == 2)?;
    let used = |trees: &mut Trees| trees.usage("web", &limits).0.cpu.unwrap_or(0);
    let (began, before) = (Instant::now(), used(&mut trees));
    // Ten periods of the controller: less would measure where in one it began.
    wait_until("a second", &mut trees, |_| began.elapsed() >= Duration::from_secs(1))?;
    let share = (used(&mut trees) - before) as f64 / began.elapsed().as_micros() as f64;
    check((0.01..0.2).contains(&share), &format!("10 % wanted, {:.1} % used", share * 100.0))?;
    end(&mut trees, "web", &limits)?;
    gone(world, limits, &mut trees)?;
    Ok(None)
}
