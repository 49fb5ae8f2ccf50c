"""Asks dnf for packages: the question is the JSON file named by the argument, the
answer is JSON on the standard output.

    refresh   downloads the metadata of the repositories; each is in the answer,
              perhaps with what went wrong
    solve     tells which packages would be installed into an empty system, from
              the metadata that "refresh" has left

Nothing of the host is read: the question names every file.
"""
import json
import os
import sys


class Unsolved(Exception):
    """An answer that is no list of packages."""

    def __init__(self, **answer):
        super().__init__()
        self.answer = answer


class Dnf:
    """dnf 4: the module "dnf"."""

    def __init__(self, question):
        import dnf
        import hawkey
        self.dnf, self.hawkey = dnf, hawkey
        self.question = question
        self.base = dnf.Base()
        conf = self.base.conf
        conf.config_file_path = os.devnull
        conf.installroot = question["root"]
        conf.cachedir = os.path.join(question["state"], "dnf")
        conf.persistdir = os.path.join(question["state"], "dnf/persist")
        conf.logdir = os.path.join(question["state"], "dnf")
        conf.reposdir = []
        conf.pluginpath = []
        conf.zchunk = False
        conf.install_weak_deps = question["weak"]
        conf.timeout = 30
        conf.retries = 2
        if question["platform"]:
            conf.module_platform_id = question["platform"]
        conf.substitutions["arch"] = conf.substitutions["basearch"] = question["arch"]
        conf.substitutions["releasever"] = question["releasever"]
        # Later versions leave the lists of files out, which dependencies may be on.
        if hasattr(conf, "optional_metadata_types"):
            conf.optional_metadata_types.append("filelists")
        for r in question["repositories"]:
            self.base.repos.add(self.repository(r))
        if question["host"]:
            conf.substitutions.update_from_etc(question["host"], varsdir=("vars",))
            conf.reposdir = [os.path.join(question["host"], "yum.repos.d")]
            self.base.read_all_repos()

    def repository(self, r):
        repo = self.dnf.repo.Repo(r["id"], self.base.conf)
        for key in ("name", "baseurl", "metalink", "mirrorlist", "gpgkey", "priority", "sslverify", "module_hotfixes",
                    "gpgcheck", "repo_gpgcheck"):
            if key in r:
                setattr(repo, key, r[key])
        return repo

    def enabled(self):
        return sorted(self.base.repos.iter_enabled(), key=lambda repo: repo.id)

    def refresh(self):
        answer = []
        for repo in self.enabled():
            about = {
                "id": repo.id, "baseurl": list(repo.baseurl), "metalink": repo.metalink or "",
                "mirrorlist": repo.mirrorlist or "", "gpgkey": list(repo.gpgkey), "gpgcheck": bool(repo.gpgcheck),
                "sslverify": bool(repo.sslverify), "sslclientcert": repo.sslclientcert or "",
            }
            answer.append(about)
            repo._repo.expire()
            try:
                repo.load()
            except self.dnf.exceptions.Error as e:
                about["error"] = str(e)
        return {"repositories": answer}

    def load(self):
        for repo in self.enabled():
            if repo.id in self.question["leave_out"]:
                repo.disable()
            else:
                repo._repo.setSyncStrategy(self.dnf.repo.SYNC_ONLY_CACHE)
        try:
            self.base.fill_sack(load_system_repo=False)
            self.base.read_comps(arch_filter=True)
        except self.dnf.exceptions.Error as e:
            raise Unsolved(unreadable=str(e)) from e

    def solve(self):
        self.load()
        try:
            self.base.install_specs([spec(r) for r in self.question["install"]], self.question["exclude"])
        except self.dnf.exceptions.MarkingErrors as e:
            groups = ["@" + g.lstrip("@") for g in list(e.no_match_group_specs) + list(e.error_group_specs)]
            self.refuse(list(e.no_match_pkg_specs) + list(e.error_pkg_specs) + groups, str(e))
        try:
            self.base.resolve()
        except self.dnf.exceptions.DepsolveError as e:
            raise Unsolved(problem=str(e)) from e
        return {"packages": [self.package(t.pkg) for t in self.base.transaction
                             if t.action in self.dnf.transaction.FORWARD_ACTIONS]}

    def refuse(self, missing, why):
        available = self.base.sack.query().available()
        groups = [g.id for g in self.base.comps.groups] + [e.id for e in self.base.comps.environments]
        raise Unsolved(missing=missing, problem=why, groups=sorted(set(groups)),
                       names=sorted({p.name for p in available}),
                       versions={r["name"]: [p.evr for p in available.filter(name=r["name"])]
                                 for r in self.question["install"] if spec(r) in missing})

    @staticmethod
    def places(p):
        """Every mirror of the list is one: dnf does not say which of them answered."""
        if p.baseurl:
            return [p.baseurl.rstrip("/") + "/" + p.location]
        return [base.rstrip("/") + "/" + p.location for base in p.repo._repo.getMirrors() or p.repo.baseurl]

    def package(self, p):
        kind, checksum = p.chksum if p.chksum else (0, b"")
        return {
            "name": p.name, "epoch": str(p.epoch), "version": p.version, "release": p.release, "arch": p.arch,
            "repository": p.repoid, "urls": self.places(p),
            "size": p.downloadsize, "algorithm": self.hawkey.chksum_name(kind) or "", "checksum": checksum.hex(),
        }


class Dnf5:
    """dnf 5: the module "libdnf5"."""

    def __init__(self, question):
        import libdnf5
        self.lib = libdnf5
        self.question = question
        self.base = libdnf5.base.Base()
        conf = self.base.get_config()
        conf.config_file_path = os.devnull
        conf.installroot = question["root"]
        conf.cachedir = os.path.join(question["state"], "dnf5")
        conf.system_cachedir = conf.cachedir
        conf.persistdir = os.path.join(question["state"], "dnf5/persist")
        conf.logdir = os.path.join(question["state"], "dnf5")
        conf.reposdir = []
        conf.plugins = False
        conf.zchunk = False
        conf.install_weak_deps = question["weak"]
        conf.optional_metadata_types = ["comps", "filelists"]
        conf.timeout = 30
        conf.retries = 2
        if question["platform"]:
            conf.module_platform_id = question["platform"]
        if question["command"] == "solve":
            conf.cacheonly = "all"
        self.reasons = reasons = []

        class Listen(libdnf5.repo.DownloadCallbacks):
            """Hears why mirrors failed, which errors do not tell."""

            def mirror_failure(self, _, message, *__):
                reasons.append(message)
                return self.OK

        # The library does not keep Python's half of the object.
        self.listener = Listen()
        self.base.set_download_callbacks(libdnf5.repo.DownloadCallbacksUniquePtr(self.listener))
        variables = self.base.get_vars()
        variables.set("arch", question["arch"])
        variables.set("basearch", question["arch"])
        variables.set("releasever", question["releasever"])
        if question["host"]:
            conf.varsdir = [os.path.join(question["host"], "vars")]
        self.base.setup()
        self.sack = self.base.get_repo_sack()
        for r in question["repositories"]:
            self.repository(r)
        if question["host"]:
            self.sack.create_repos_from_dir(os.path.join(question["host"], "yum.repos.d"))

    def repository(self, r):
        repo = self.sack.create_repo(r["id"])
        conf = repo.get_config()
        conf.name = r["id"]
        for key in ("name", "baseurl", "metalink", "mirrorlist", "gpgkey", "priority", "sslverify", "module_hotfixes",
                    "repo_gpgcheck"):
            if key in r:
                setattr(conf, key, r[key])
        if "gpgcheck" in r:
            conf.pkg_gpgcheck = r["gpgcheck"]

    def enabled(self):
        query = self.lib.repo.RepoQuery(self.base)
        query.filter_enabled(True)
        query.filter_type(self.lib.repo.Repo.Type_AVAILABLE)
        found, at = [], query.begin()
        while at != query.end():
            found.append(at.value())
            at.next()
        return sorted(found, key=lambda repo: repo.get_id())

    @staticmethod
    def text(option):
        return "" if option.empty() else option.get_value()

    def refresh(self):
        return {"repositories": [Dnf5(self.question).refresh_one(repo.get_id()) for repo in self.enabled()]}

    def refresh_one(self, name):
        """Loads no other repository, for the first that fails would hide the next."""
        for repo in self.enabled():
            if repo.get_id() == name:
                chosen = repo
            else:
                repo.disable()
        conf = chosen.get_config()
        about = {
            "id": name, "baseurl": list(conf.get_baseurl_option().get_value()),
            "metalink": self.text(conf.get_metalink_option()), "mirrorlist": self.text(conf.get_mirrorlist_option()),
            "gpgkey": list(conf.get_gpgkey_option().get_value()), "gpgcheck": conf.get_pkg_gpgcheck_option().get_value(),
            "sslverify": conf.get_sslverify_option().get_value(),
            "sslclientcert": self.text(conf.get_sslclientcert_option()),
        }
        chosen.expire()
        try:
            self.sack.load_repos(self.lib.repo.Repo.Type_AVAILABLE)
        except self.lib.exception.Error as e:
            about["error"], about["reasons"] = str(e), self.reasons
        return about

    def solve(self):
        for repo in self.enabled():
            if repo.get_id() in self.question["leave_out"]:
                repo.disable()
        try:
            self.sack.load_repos(self.lib.repo.Repo.Type_AVAILABLE)
        except self.lib.exception.Error as e:
            raise Unsolved(unreadable=str(e)) from e
        excluded = self.lib.rpm.PackageQuery(self.base)
        excluded.filter_name(self.question["exclude"], self.lib.common.QueryCmp_GLOB)
        self.base.get_rpm_package_sack().add_user_excludes(excluded)
        goal = self.lib.base.Goal(self.base)
        for r in self.question["install"]:
            goal.add_install(spec(r))
        transaction = goal.resolve()
        problems = transaction.get_problems()
        if problems != self.lib.base.GoalProblem_NO_PROBLEM:
            self.refuse(transaction)
        return {"packages": [self.package(t.get_package()) for t in transaction.get_transaction_packages()
                             if self.lib.transaction.transaction_item_action_is_inbound(t.get_action())]}

    def refuse(self, transaction):
        missing = [log.get_spec() for log in transaction.get_resolve_logs() if log.get_problem() in (
            self.lib.base.GoalProblem_NOT_FOUND, self.lib.base.GoalProblem_EXCLUDED)]
        names = self.lib.rpm.PackageQuery(self.base)
        versions = {}
        for r in self.question["install"]:
            if spec(r) in missing:
                query = self.lib.rpm.PackageQuery(self.base)
                query.filter_name([r["name"]])
                versions[r["name"]] = [p.get_evr() for p in query]
        groups = [g.get_groupid() for g in self.lib.comps.GroupQuery(self.base)]
        groups += [e.get_environmentid() for e in self.lib.comps.EnvironmentQuery(self.base)]
        raise Unsolved(missing=missing, names=sorted({p.get_name() for p in names}),
                       groups=sorted(set(groups)), versions=versions,
                       problem="\n".join(log.to_string() for log in transaction.get_resolve_logs() if log.get_problem() == (
                           self.lib.base.GoalProblem_SOLVER_ERROR)))

    @staticmethod
    def package(p):
        checksum = p.get_checksum()
        return {
            "name": p.get_name(), "epoch": p.get_epoch() or "0", "version": p.get_version(), "release": p.get_release(),
            "arch": p.get_arch(), "repository": p.get_repo_id(), "urls": list(p.get_remote_locations()),
            "size": p.get_download_size(), "algorithm": checksum.get_type_str(), "checksum": checksum.get_checksum(),
        }


def spec(request):
    """A name, a name with a version as dnf takes it, or @GROUP."""
    if request["version"]:
        return request["name"] + "-" + request["version"]
    return request["name"]


def solver(question):
    try:
        return Dnf(question)
    except ModuleNotFoundError:
        pass
    try:
        return Dnf5(question)
    except ModuleNotFoundError as e:
        raise Unsolved(no_dnf=True) from e


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        question = json.load(f)
    try:
        answer = getattr(solver(question), question["command"])()
    except Unsolved as e:
        answer = e.answer
    json.dump(answer, sys.stdout)


main()
