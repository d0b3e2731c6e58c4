//! Packages on the host in memory: downloads, package tools, archives, and what is found in them.

use super::*;

impl Host<'_> {
    pub(super) fn job(&self, id: &str) -> Option<&Job> {
        self.daemon.as_ref()?.job(id)
    }

    pub(super) fn source(&self, id: &str) -> Result<Source, String> {
        match self.job(id).map(|job| &job.action) {
            Some(JobAction::Install(source) | JobAction::Upgrade(source)) => Ok(source.clone()),
            _ => Err(format!("job {id} has no package")),
        }
    }

    pub(super) fn fetch(&mut self, id: JobId) -> Broken {
        if let Some(other) = self.fetching.replace(id.clone()) {
            return Err(format!("the downloads of {other} and {id} run at once"));
        }
        let source = self.source(&id)?;
        let resumed = !self.disk.downloads.insert(id.clone());
        let mut wrong = source.digest;
        wrong.0[1] = 0;
        let fetched = match self.random.below(if self.plan.wear == 0 { 1 } else { 8 }) {
            1 => Fetched::Cut { reason: "cut".into(), progress: self.random.chance(50), retry_after: None },
            2 => Fetched::Refused { reason: "not there".into() },
            3 => Fetched::Whole { digest: wrong, doubtful: resumed },
            4 => Fetched::Whole { digest: wrong, doubtful: true },
            _ => Fetched::Whole { digest: source.digest, doubtful: resumed },
        };
        let slow = if self.random.chance(5) { 60 } else { 1 };
        let after = self.random.below(60_000 * slow);
        self.answer(after, Event::Fetched(id, fetched));
        Ok(())
    }

    /// Ends a download, and whether there was one.
    pub(super) fn end_fetch(&mut self, id: &str) -> bool {
        let ends = self.fetching.as_deref() == Some(id);
        if ends {
            self.fetching = None;
            self.agenda.retain(|_, due| !matches!(due, Due::Answer(_, event) if matches!(**event, Event::Fetched(..))));
        }
        ends
    }

    pub(super) fn tool(&mut self, id: JobId, tool: Tool) -> Broken {
        if self.tools.contains_key(&id) {
            return Err(format!("two package tools of job {id} run at once"));
        }
        let argv: Vec<&str> = tool.argv.iter().map(|arg| &**arg).collect();
        let last = argv.last().copied().unwrap_or_default();
        let fails = self.wears();
        let (exit, output) = match argv[0] {
            _ if fails && self.random.chance(50) => (Exit::Code(2), "database is locked"),
            _ if fails => (Exit::Code(1), "broken"),
            "dpkg-deb" => (Exit::Code(0), "Package: agent-package\nVersion: 3\n"),
            "sh" if argv[3] == "query" && self.disk.installed.contains_key(last) => (Exit::Code(0), "3\n"),
            "sh" if ["query", "clear"].contains(&argv[3]) => (Exit::Code(0), ""),
            _ => (Exit::Code(0), "fine"),
        };
        if exit == Exit::Code(0) {
            let name = self.job(&id).map(|job| job.name.clone()).unwrap_or_default();
            if argv.contains(&"dpkg -i") {
                let file: Box<str> = argv[4].rsplit('/').next().unwrap_or_default().into();
                if !self.disk.packages.contains_key(&(name, file.clone())) {
                    return Err(format!("job {id}: {file} is installed, and is not there"));
                }
                self.disk.installed.insert("agent-package".into(), number_of(&file));
            } else if argv.contains(&"-r") {
                self.disk.installed.remove(last);
            }
        }
        self.count += 1;
        let number = self.count;
        self.tools.insert(id.clone(), number);
        let hangs = self.random.chance(self.plan.wear / 2);
        if !hangs {
            let after = self.random.below(30_000);
            self.later(after, Due::ToolEnds(id, number, exit, output.into()));
        }
        Ok(())
    }

    pub(super) fn unpack(&mut self, job: JobId, name: Name, file: Box<str>, dir: Box<str>) {
        let package = self.disk.packages.get(&(name.clone(), file)).copied();
        let result = match package {
            None => Err("the package is gone".into()),
            Some(_) if self.wears() => Err("damaged".into()),
            Some(number) => {
                self.disk.packages.insert((name, dir), number);
                Ok(())
            }
        };
        let after = self.random.below(5_000);
        self.answer(after, Event::Unpacked(job, result));
    }

    pub(super) fn inspect(&mut self, job: JobId, name: &Name, dir: Box<str>, text: Option<Box<str>>) {
        let number = if dir.is_empty() {
            self.disk.installed.get("agent-package").copied()
        } else {
            self.disk.packages.get(&(name.clone(), dir)).copied()
        };
        let result = match text {
            _ if self.wears() => Err("unreadable".into()),
            Some(text) => Ok(job_definition(&text)),
            None => Ok(number.and_then(|number| package_definition(number, name))),
        };
        self.queue.push_back(Event::Inspected(job, result));
    }
}
