# SPDX-License-Identifier: BSD-3-Clause
"""What an operator can set of `SealedKubeSpawner`, and copies of a spawner's settings at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from traitlets import Bool, Dict, Float, HasTraits, Int, List, TraitError, Unicode, validate

from sealroom_spawner.kube.plan import HOME, RUNTIME_CLASSES
from sealroom_spawner.kube.rules import waivable


class KubeTraits(HasTraits):
    """The settings of `SealedKubeSpawner`; none of them can be set by a profile."""

    _trait_values: dict[str, Any]

    environments_dir = Unicode(
        help="Directory of the environments: `<name>.toml`, `<name>.toml.sig` and `publisher.pub.pem`. "
        "Without it no server starts, unless `allow_unsealed` says so."
    ).tag(config=True)
    datasets_dir = Unicode(
        help="Directory of sealed datasets, whose titles the spawn page shows; nothing is opened there."
    ).tag(config=True)
    allow_unsealed = Bool(
        False,
        help="UNSAFE. Start plain pods where no environment is configured or a profile names none. Nothing "
        "about them is checked or verified; everything is as in KubeSpawner.",
    ).tag(config=True)
    runtime_classes = List(
        Unicode(), list(RUNTIME_CLASSES), help="Runtime classes that environments may ask for."
    ).tag(config=True)
    gpu_resource = Unicode("nvidia.com/pgpu", help="The extended resource of a GPU for a guest.").tag(
        config=True
    )
    kata_default_vcpus = Float(
        0.0,
        help="`default_vcpus` of the runtime's configuration, which Kata adds to a pod's limit: the limit is "
        "the shape's vCPUs less this.",
    ).tag(config=True)
    create_container_timeout = Int(
        600, help="Seconds that Kata waits for a container, in which the guest pulls its image."
    ).tag(config=True)
    home_path = Unicode(HOME, help="The home directory in the environments' images.").tag(config=True)
    affirm_timeout = Float(
        300.0,
        help="Seconds after which a running server is stopped that has to prove itself to be a genuine TEE "
        "and does not any more.",
    ).tag(config=True)
    accepted_weaknesses = List(
        Unicode(), help="Ids of rules that this hub gives up (docs/reference/pod-rules); the page says so."
    ).tag(config=True)
    allowed_claims = List(Unicode(), help="Persistent volume claims besides a person's own.").tag(config=True)
    allowed_secrets = List(Unicode(), help="Secrets that pods may mount or read.").tag(config=True)
    allowed_config_maps = List(Unicode(), help="ConfigMaps that pods may mount or read.").tag(config=True)
    allowed_service_accounts = List(Unicode(), help="Service accounts; tokens are never mounted.").tag(
        config=True
    )
    allowed_containers = Dict(
        help="Further containers and init containers: name and image by digest. They have no own size."
    ).tag(config=True)
    allowed_annotations = List(Unicode(), help="Further annotations, by how they begin.").tag(config=True)
    allowed_labels = List(Unicode(), help="Further labels, by how they begin.").tag(config=True)
    allowed_mount_paths = List(Unicode(), help="Further directories that volumes may go to.").tag(config=True)
    allowed_namespaces = List(Unicode(), help="Further namespaces that profiles may put servers in.").tag(
        config=True
    )
    extra_user_options = List(
        Unicode(), help="Options of a start that hooks of this hub read; all unknown ones are refused."
    ).tag(config=True)

    @validate("accepted_weaknesses")
    def _only_what_can_be_given_up(self, proposal: Any) -> list[str]:
        refused = sorted(set(proposal["value"]) - waivable())
        if refused:
            raise TraitError(f"These rules cannot be given up: {', '.join(refused)}.")
        return list(proposal["value"])

    # A spawner's settings at one moment

    @classmethod
    def setting_names(cls) -> frozenset[str]:
        """Return the names of everything that configuration, profiles and hooks set."""
        # Asked for with every start: the class does not change.
        if "_setting_names" not in cls.__dict__:
            cls._setting_names = frozenset(cls.class_trait_names(config=True))
        return cls._setting_names

    _setting_names: frozenset[str]

    def settings_now(self) -> dict[str, Any]:
        """Return a copy of what is set; what still has its default is left out."""
        names = self.setting_names()
        return {name: _copied(value) for name, value in self._trait_values.items() if name in names}

    def set_settings(self, values: Mapping[str, Any]) -> None:
        """Set everything as it was, without telling observers; what is not in `values` gets its default."""
        for name in self.setting_names():
            if name in values:
                self._trait_values[name] = _copied(values[name])
            else:
                self._trait_values.pop(name, None)

    @contextmanager
    def under_settings(self, values: Mapping[str, Any]) -> Iterator[None]:
        """Have other settings for a while."""
        now = self.settings_now()
        self.set_settings(values)
        try:
            yield
        finally:
            self.set_settings(now)


def _copied(value: Any) -> Any:
    """Return a value that changes to the original do not reach. Functions and objects are what they are."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
