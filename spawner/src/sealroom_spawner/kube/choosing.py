# SPDX-License-Identifier: BSD-3-Clause
"""What a person may choose, and what becomes of it: the part of the spawner before there is a pod.

Invariants:

- What the pod is checked against is fixed before a profile, an option or a hook has its say.
- An option that is not known is refused; options that were refused are not remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jupyterhub.utils import maybe_future
from kubespawner import KubeSpawner
from sealroom.errors import Error, FormatError
from traitlets import default

from sealroom_spawner.kube import catalogue, form, plan
from sealroom_spawner.kube.catalogue import ENVIRONMENT, ENVIRONMENT_LABEL, SHAPE, Catalogue, KubeOffer
from sealroom_spawner.kube.checks import OWN_PREFIX, ROUTE_VARIABLES
from sealroom_spawner.kube.expectation import (
    ANNOTATION_PREFIXES,
    LABEL_PREFIXES,
    MOUNT_PATHS,
    PodExpectation,
)
from sealroom_spawner.kube.plan import Plan
from sealroom_spawner.kube.provenance import BEFORE_START, CONFIGURATION
from sealroom_spawner.kube.rules import RULES
from sealroom_spawner.kube.traits import KubeTraits
from sealroom_spawner.offers import read_datasets
from sealroom_spawner.proving import Proving, refusal

FIXED_VARIABLES = (
    "JUPYTERHUB_API_URL", "JUPYTERHUB_ACTIVITY_URL", "JUPYTERHUB_BASE_URL", "JUPYTERHUB_HOST",
    "JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_USER", "JUPYTERHUB_SERVER_NAME", "JUPYTERHUB_CLIENT_ID",
    "JUPYTERHUB_OAUTH_CALLBACK_URL", "JUPYTERHUB_OAUTH_SCOPES", "JUPYTERHUB_OAUTH_ACCESS_SCOPES",
    "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES", "JUPYTERHUB_DISABLE_USER_CONFIG",
)  # fmt: skip
"""Variables of JupyterHub that say where the hub is and who may come in."""


class Step(NamedTuple):
    """The settings after one of those who form a pod."""

    name: str
    settings: dict[str, Any]
    bare: bool
    """Whether the environment has not been applied to them yet."""


class Choosing(KubeTraits, Proving, KubeSpawner):
    """The part of `SealedKubeSpawner` that knows environments, profiles and options."""

    environment: Any
    extra_annotations: Any
    extra_pod_config: Any
    volumes: Any
    volume_mounts: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._plan: Plan | None = None
        self._expected: PodExpectation | None = None
        self._demands = False
        self._trail: list[Step] = []
        self._names: Iterator[str] = iter(())
        self._stored: tuple[str, str] | None = None
        self._known: Catalogue | None = None
        self.stopped_because = ""
        """Why the last server was stopped or ended by itself; shown until the next start."""
        super().__init__(*args, **kwargs)
        self._own_namespace = self.namespace
        self._initial = self.settings_now()

    def refuse_unsealed(self) -> None:
        """Refuse a pod that has no environment, unless the configuration allows it.

        Raises:
            RefusedError: It does not.
        """
        with self.under_settings(self._initial):
            allowed = self.allow_unsealed
        if not allowed:
            raise refusal(
                "This hub has no environments, so it starts no servers. The operator sets "
                "SealedKubeSpawner.environments_dir, or allow_unsealed for plain pods that prove nothing."
            )

    # What people choose

    @default("options_form")
    def _options_form_default(self) -> Any:
        return self._sealed_form if self.environments_dir else super()._options_form_default()

    async def _sealed_form(self, _spawner: Any = None) -> str:
        offers = self._offers()
        profiles = await self._profiles(offers)
        chosen = dict(self.user_options or {})
        try:
            self._choose(profiles, chosen)
        except Error:
            chosen = {}
        datasets = read_datasets(Path(self.datasets_dir)) if self.datasets_dir else []
        notes = [f"Your last server was stopped. {self.stopped_because}"] if self.stopped_because else []
        notes += [
            f"This hub does not demand of servers: {RULES[name].demand}" for name in self.accepted_weaknesses
        ]
        return form.render(profiles, offers, datasets, chosen=chosen, notes=notes)

    def _options_from_form(self, formdata: dict[str, list[str]]) -> dict[str, Any]:
        named = formdata.get(ENVIRONMENT) if self.environments_dir else None
        rest = {key: value for key, value in formdata.items() if not (named and key in (ENVIRONMENT, SHAPE))}
        options: dict[str, Any] = super()._options_from_form(rest)
        if named and "profile" not in options:
            options[ENVIRONMENT] = named[0]
            if formdata.get(SHAPE):
                options[SHAPE] = formdata[SHAPE][0]
        return options

    def _offers(self) -> list[KubeOffer]:
        if self._known is None:
            self._known = _catalogue(self.environments_dir, tuple(self.runtime_classes))
        return [one for one in self._known.offers() if self.offers_environment(one.name)]

    def _build_pod_labels(self, extra_labels: dict[str, str]) -> dict[str, str]:
        """Return the pod's labels; network policies select by the environment's."""
        labels: dict[str, str] = super()._build_pod_labels(extra_labels)
        return labels if self._plan is None else {**labels, ENVIRONMENT_LABEL: self._plan.environment.name}

    async def _profiles(self, offers: list[KubeOffer]) -> list[dict[str, Any]]:
        given = self._sorted_dict_values(self.profile_list)
        if callable(given):
            given = await maybe_future(given(self))
        profiles = catalogue.profiles(offers, list(given or ()), plain=self.allow_unsealed)
        return list(self._get_initialized_profile_list(profiles))

    def _choose(self, profiles: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
        """Return the profile that options name; `options` then name it by its slug.

        Raises:
            FormatError: They name none, or hold something that is no option of it.
        """
        if not profiles:
            raise FormatError(
                "No environment is on offer here.", advice="The hub's log says which were found."
            )
        if "profile" not in options and ENVIRONMENT in options:
            name = options.pop(ENVIRONMENT)
            slugs = (item["slug"] for item in profiles if item.get(ENVIRONMENT) == name)
            options["profile"] = next(slugs, name)
        try:
            profile: dict[str, Any] = self._get_profile(options.get("profile"), profiles)
        except ValueError:
            raise FormatError(
                "There is no such environment.", advice="Choose one on the spawn page."
            ) from None
        _check_options(options, profile, self.extra_user_options)
        return profile

    async def load_user_options(self) -> None:
        """Apply the chosen environment, then the profile and its options; remember who set what.

        Raises:
            RefusedError: The options are not of an environment on offer.
        """
        self._plan = self._expected = self._stored = None
        self._trail = []
        if not self.environments_dir:
            await super().load_user_options()
            return
        before = self.settings_now()
        with self.under_settings(self._initial):
            offers = self._offers()
            profiles = await self._profiles(offers)
        options = dict(self.user_options or {})
        try:
            profile = self._choose(profiles, options)
            self.user_options = options
            self._validate_user_options(profiles)
        except (Error, ValueError) as error:
            self.forget_options()
            raise refusal(error.diagnostics() if isinstance(error, Error) else str(error)) from error
        offer = next((item for item in offers if item.name == profile.get(ENVIRONMENT)), None)
        if offer is not None:
            self._seal(offer, before)
        self._load_profile(profile["slug"], profiles)

    def _seal(self, offer: KubeOffer, before: dict[str, Any]) -> None:
        """Fix what the pod has to be, and set what the environment says."""
        with self.under_settings(self._initial):
            self._plan = Plan(
                environment=offer.environment,
                shape=offer.environment.shape((self.user_options or {}).get(SHAPE)),
                manifest=offer.manifest,
                gpu_resource=self.gpu_resource,
                default_vcpus=self.kata_default_vcpus,
                create_timeout=self.create_container_timeout,
            )
            self._expected = self._expectation(self._plan)
            demanded = self.must_affirm
        self._demands = self._plan.demands_affirming if demanded is None else bool(demanded)
        if self._demands and not self.status_url:
            raise refusal(
                f"The environment {offer.name} demands a genuine TEE, and this hub has no status service "
                "(status_url) by which it would know of one."
            )
        self._trail = [Step(CONFIGURATION, self._initial, True), Step(BEFORE_START, before, True)]
        self._apply_environment(self._plan)

    def _load_profile(self, slug: str | None, profile_list: list[dict[str, Any]]) -> None:
        profile = self._get_profile(slug, profile_list)
        self._names = iter([f'the profile "{profile["display_name"]}"', *self._option_names(profile)])
        try:
            super()._load_profile(slug, profile_list)
        except (KeyError, StopIteration) as error:
            if self._expected is None:
                raise
            self.forget_options()
            raise refusal(f"The profile {profile['display_name']} cannot be applied: {error!r}.") from error

    def _option_names(self, profile: Mapping[str, Any]) -> Iterator[str]:
        options = self.user_options or {}
        for name in profile.get("profile_options", {}):
            if options.get(f"{name}--unlisted-choice"):
                yield f'the person\'s own value of the option "{name}" of the user options'
            elif options.get(name):
                yield f'the choice "{options[name]}" of the option "{name}" of the user options'
            else:
                yield f'the default of the option "{name}"'

    def _apply_overrides(self, spawner_override: dict[str, Any]) -> None:
        if self._expected is None:
            super()._apply_overrides(spawner_override)
            return
        who = next(self._names, "a profile")
        for name in spawner_override:
            if name not in self.setting_names() or name in _OWN_SETTINGS:
                self.forget_options()
                raise refusal(f"{_printable(name)} is set by {who}, and is not for profiles to set.")
        super()._apply_overrides(spawner_override)
        self._trail.append(Step(who, self.settings_now(), False))

    # What the pod has to be, and what the environment makes of it

    def _expectation(self, chosen: Plan) -> PodExpectation:
        """Return what the pod has to be, from the environment and the hub's configuration alone."""
        own_secrets = [self.secret_name] if self.internal_ssl else []
        accounts = [self._expand_all(self.service_account)] if self.service_account else []
        annotations = {**self.extra_annotations, **getattr(self, "common_annotations", {})}
        return PodExpectation(
            environment=chosen.environment.name,
            runtime_class=chosen.runtime_class,
            image=chosen.image,
            cpu_millis=chosen.cpu_millis,
            memory_bytes=chosen.memory_bytes,
            namespaces=frozenset({self._own_namespace, *self.allowed_namespaces}),
            gpus=chosen.shape.gpus,
            gpu_resource=chosen.gpu_resource,
            args=tuple([*self.cmd, *self.get_args()] if self.cmd else ()),
            annotations=chosen.annotations,
            labels=self._build_pod_labels(self._expand_all(self.extra_labels)),
            env=self._fixed_env(chosen),
            claims=frozenset({self.pvc_name, *self.allowed_claims}),
            secrets=frozenset({*own_secrets, *self.allowed_secrets}),
            config_maps=frozenset(self.allowed_config_maps),
            service_accounts=frozenset({*accounts, *self.allowed_service_accounts}),
            containers=dict(self.allowed_containers),
            annotation_prefixes=(*ANNOTATION_PREFIXES, *self.allowed_annotations, *annotations),
            label_prefixes=(*LABEL_PREFIXES, *self.allowed_labels),
            mount_paths=(
                *MOUNT_PATHS, self.home_path, self.secret_mount_path.rstrip("/"), *self.allowed_mount_paths
            ),
            accepted=frozenset(self.accepted_weaknesses),
        )  # fmt: skip

    def _fixed_env(self, chosen: Plan) -> dict[str, str]:
        """Return the variables that must be as they are: the hub's, and what its configuration says."""
        configured, self.environment = self.environment, {}
        try:
            hubs = super().get_env()
        finally:
            self.environment = configured
        given = {key: value for key, value in configured.items() if isinstance(value, str)}
        given = {
            key: value
            for key, value in self._expand_env(given).items()
            if key in FIXED_VARIABLES or key in ROUTE_VARIABLES or key.startswith(OWN_PREFIX)
        }
        found = {key: hubs[key] for key in FIXED_VARIABLES if key in hubs}
        return {key: str(value) for key, value in {**found, **self._own_env(chosen), **given}.items()}

    def _own_env(self, chosen: Plan) -> dict[str, str]:
        del chosen  # the manifest is not in the pod: the broker knows it by its digest
        return {
            "SEALROOM_RUN": plan.RUN_DIRECTORY,
            "SEALROOM_BROKER_URL": self.broker_url,
            "SEALROOM_STATUS_URL": self.status_url,
            "SEALROOM_SERVER_NAME": self.name or "",
        }

    def get_env(self) -> dict[str, str]:
        """Return the server's environment."""
        env: dict[str, str] = super().get_env()
        if self._plan is None:
            return env
        return {
            **self._own_env(self._plan),
            "JUPYTER_RUNTIME_DIR": f"{plan.RUN_DIRECTORY}/jupyter",
            **env,
        }

    def _apply_environment(self, chosen: Plan) -> None:
        """Set what the environment says; the rest of the configuration stays."""
        self.image = chosen.image
        self.cpu_limit = self.cpu_guarantee = chosen.cpu_millis / 1000
        self.mem_limit = self.mem_guarantee = chosen.memory_bytes
        for name in ("extra_resource_limits", "extra_resource_guarantees"):
            setattr(self, name, {**getattr(self, name), **chosen.devices})
        self.automount_service_account_token = False
        self.extra_annotations = {**self.extra_annotations, **chosen.annotations}
        self.extra_pod_config = {
            "enableServiceLinks": False, **self.extra_pod_config, "runtimeClassName": chosen.runtime_class
        }  # fmt: skip
        self._merge_context("container_security_context", plan.CONTAINER_CONTEXT)
        self._merge_context("pod_security_context", plan.POD_CONTEXT)
        mounts = plan.scratch_mounts(self.home_path)
        taken = {str(mount.get("mountPath", "")).rstrip("/") for mount in _listed(self.volume_mounts)}
        mounts = {name: mount for name, mount in mounts.items() if mount["mountPath"] not in taken}
        volumes = plan.scratch_volumes(chosen.shape.memory_mib)
        self.volumes = _added(self.volumes, {name: volumes[name] for name in mounts})
        self.volume_mounts = _added(self.volume_mounts, mounts)

    def _merge_context(self, name: str, base: Mapping[str, Any]) -> None:
        given = getattr(self, name)
        if callable(given):

            async def asked(spawner: Any) -> dict[str, Any]:
                return plan.merged(base, await maybe_future(given(spawner)) or {})

            setattr(self, name, asked)
        else:
            setattr(self, name, plan.merged(base, given or {}))


_OWN_SETTINGS = frozenset(KubeTraits.class_trait_names(config=True)) | frozenset(
    Proving.class_trait_names(config=True)
)
"""Settings that decide what is demanded: no profile sets them."""
_CATALOGUES: dict[tuple[str, tuple[str, ...]], Catalogue] = {}


def _check_options(options: Mapping[str, Any], profile: Mapping[str, Any], extra: Sequence[str]) -> None:
    """Refuse options that are not of a profile.

    Raises:
        FormatError: One is no option, no text, or no choice of its option.
    """
    offered = profile.get("profile_options", {})
    known = {"profile", ENVIRONMENT, *offered, *(f"{name}--unlisted-choice" for name in offered)}
    for name, value in options.items():
        if name in extra:
            continue
        if name not in known:
            raise FormatError(f"{_printable(name)} is no option of a start; nobody can set it from outside.")
        if not isinstance(value, str):
            raise FormatError(f"The option {name} of a start is a text.")
    for name, option in offered.items():
        choice, free = options.get(name), options.get(f"{name}--unlisted-choice")
        if choice and not free and choice not in option.get("choices", {}):
            raise FormatError(f"The option {name} of {profile['display_name']} has no such choice.")


def _catalogue(directory: str, runtime_classes: tuple[str, ...]) -> Catalogue:
    # Shared by all servers of the hub: signatures are verified once, not at each start.
    return _CATALOGUES.setdefault((directory, runtime_classes), Catalogue(Path(directory), runtime_classes))


def _listed(value: Any) -> list[Mapping[str, Any]]:
    found = value.values() if isinstance(value, dict) else value or ()
    return [item for item in found if isinstance(item, Mapping)]


def _added(value: Any, more: Mapping[str, Any]) -> Any:
    """Return a list or table of KubeSpawner's with more in it."""
    return {**value, **more} if isinstance(value, dict) else [*(value or ()), *more.values()]


def _printable(name: object) -> str:
    text = str(name)
    return text[:80] if text.isprintable() else "Something"
