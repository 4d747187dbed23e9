//! The architectures: what a guest of each is made of.

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// As Rust and qemu call it.
    pub name: &'static str,
    /// As Debian does.
    pub debian: &'static str,
    /// Emulates the guests' machine.
    pub qemu: &'static str,
    /// The package that has it.
    pub package: &'static str,
    /// What the machine is, for qemu; a word that is true if it has memory tags comes behind it.
    machine: &'static str,
    /// Whether that word belongs there.
    pub tags: bool,
    processor: &'static str,
    /// The serial port that is the kernel's, as it is called.
    pub console: &'static str,
    /// The serial port that is not the console.
    pub events: &'static str,
    /// The ends of the names of packages with kernels: those that are small and have all that a guest needs built in,
    /// and those whose pages have another size, as the version that is asked for ends.
    pub flavours: &'static [(&'static str, &'static str)],
    /// The kernels to run if none is named, without this machine's.
    pub kernels: &'static [&'static str],
}

/// All of them.
static ALL: [Arch; 2] = [
    Arch {
        name: "x86_64",
        debian: "amd64",
        qemu: "qemu-system-x86_64",
        package: "qemu-system-x86",
        machine: "pc",
        tags: false,
        // All that can be emulated, but for what makes libc and the kernel fill and copy memory with one repeated
        // instruction: emulated byte by byte, that makes the tests take more than twice the time. And without
        // cmpxchg16b: when an interrupt came behind it, QEMU 7.2 has put the low bits of RAX into the saved flags, and
        // the kernel, whose slab allocator uses it, died of a double fault.
        processor: "max,-erms,-fsrm,-cx16",
        console: "ttyS0",
        events: "/dev/ttyS1",
        flavours: &[("", "-cloud-amd64")],
        kernels: &["6.1", "6.12", "newest"],
    },
    Arch {
        name: "aarch64",
        debian: "arm64",
        qemu: "qemu-system-aarch64",
        package: "qemu-system-arm",
        machine: "virt",
        tags: true,
        // Without what takes an emulator long and no test looks at.
        processor: "max,pauth=off,sve=off,sme=off",
        console: "ttyAMA0",
        events: "/dev/ttyAMA1",
        flavours: &[("", "-cloud-arm64"), ("-16k", "-arm64-16k")],
        kernels: &["6.1", "6.12", "6.12-16k", "newest", "newest-16k"],
    },
];

impl Arch {
    /// The one of that name.
    pub fn named(name: &str) -> Result<&'static Self, String> {
        ALL.iter().find(|arch| arch.name == name).ok_or_else(|| {
            let names = ALL.iter().map(|arch| arch.name);
            format!("one of {}", names.collect::<Vec<_>>().join(", "))
        })
    }

    /// The one that this program was built for.
    pub fn own() -> &'static Self {
        Self::named(std::env::consts::ARCH).expect("refpage builds for these architectures alone")
    }

    /// Whether this machine cannot run its programs.
    pub fn is_foreign(&self) -> bool {
        self != Self::own()
    }

    /// Rust's target.
    pub fn triple(&self) -> String {
        format!("{}-unknown-linux-gnu", self.name)
    }

    /// qemu's arguments for the machine and its processor.
    pub fn machine(&self, tags: bool) -> [String; 4] {
        let mut machine = self.machine.to_owned();
        if self.tags {
            machine += if tags { ",mte=on" } else { ",mte=off" };
        }
        ["-machine".into(), machine, "-cpu".into(), self.processor.into()]
    }

    /// What the table calls the machine.
    pub fn title(&self, tags: bool) -> String {
        match (self.tags, tags) {
            (false, _) => self.name.into(),
            (true, true) => format!("{}, mte=on", self.name),
            (true, false) => format!("{}, mte=off", self.name),
        }
    }
}
