"""`save_pretrained`, `from_pretrained` and `push_to_hub`, as users of the Hugging Face Hub expect them.

They only need what `Kept` declares of a network, so the network's class can build on them. Their work is done in
`repository.py`, which is imported when one of them is called: most programs never use the Hub.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import nn

from ..choose.tradeoffs import TradeOffs
from .folder import Kept


class OnTheHub(Kept):
    """Methods for sharing a network; their names and arguments are those of huggingface_hub's ModelHubMixin.

    Attributes:
        preprocessing: how images become its input, if a folder says so; else None.
    """

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        config: Any = None,
        tradeoffs: TradeOffs | None = None,
        preprocessing: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: Mapping[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the network to a folder in the Hugging Face Hub's layout: config.json, model.safetensors, README.md.

        The three are replaced together or, if that fails, not at all. A README.md that was written or changed by hand
        is kept.

        Arguments:
            save_directory: the folder; not one that `save` wrote.
            config: further entries of config.json: a mapping or a dataclass of plain values.
            tradeoffs: quality and costs of the sub-networks, for a table in the card, and its metric.
            preprocessing: how images become the input: a `Preprocessing`, a `DataConfig`, or a mapping with
                `image_size`, `channels`, `mean`, `std`, `interpolation`, `crop_pct` and `classes` (the last three are
                optional); by default the network's own.
            repo_id: the repository `USER/NAME` for the card; by default the folder's name.
            push_to_hub: also push to this repository.
            model_card_kwargs: metadata of the card, as huggingface_hub's ModelCardData takes it, such as
                `{"license": "mit", "base_model": "timm/resnet50.a1_in1k"}`.
            **push_to_hub_kwargs: as for `push_to_hub`.

        Returns:
            The URL of the commit with `push_to_hub=True`, else None.

        Raises:
            CheckpointError: the folder cannot be written, or contains a network written by `save`; entries, metadata
                or trade-offs that do not fit; any error of the Hub.
            DataError: an invalid preprocessing.

        Example:
            >>> import tempfile, timm, adaptive_depth as ad
            >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     net.save_pretrained(folder, model_card_kwargs={"license": "mit"})
            ...     sorted(file.name for file in Path(folder).iterdir())
            ['README.md', 'config.json', 'model.safetensors']
        """
        from .repository import prepare

        folder = Path(save_directory)
        content: dict[str, Any] = {"config": config, "tradeoffs": tradeoffs, "preprocessing": preprocessing}
        share = prepare(self, **content, metadata=model_card_kwargs)
        name = repo_id or folder.resolve().name
        share.write(folder, name)
        if not push_to_hub:
            return None
        return self.push_to_hub(name, **content, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        model: nn.Module | None = None,
        another_class: bool = False,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:
        """The network in a folder, or in a repository of the Hugging Face Hub, in eval mode on the CPU.

        Nothing that is read can run code; the weights are checked against the SHA-256 in config.json.

        Arguments:
            pretrained_model_name_or_path: a folder that `save_pretrained` or `save` wrote, or `"USER/NAME"`.
            model: a model of the same architecture, for networks whose model cannot be built by name; its weights are
                replaced.
            another_class: whether the model's class may have a different name from the saved one.
            force_download: download again what is cached.
            token: of the Hub; by default that of `hf auth login`.
            cache_dir: where downloaded files are kept.
            local_files_only: download nothing, read only the cache.
            revision: a branch, tag or commit.

        Raises:
            CheckpointError: no network, files that are damaged, mixed, foreign or of a newer version, weights that do
                not fit the model, or any error of the Hub.

        Example:
            >>> import tempfile, timm, adaptive_depth as ad
            >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     net.save_pretrained(folder)
            ...     same = ad.AdaptiveNetwork.from_pretrained(folder)
            >>> len(same.skips)
            16
        """
        from .repository import read

        return read(
            cls,
            pretrained_model_name_or_path,
            model,
            another_class=another_class,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        config: Any = None,
        tradeoffs: TradeOffs | None = None,
        preprocessing: Any = None,
        commit_message: str = "Push model using huggingface_hub.",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        delete_patterns: list[str] | str | None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Put what `save_pretrained` writes into a repository of the Hugging Face Hub, in one commit.

        The repository is created if it does not exist. A card that was changed there is replaced: keep it with
        `ignore_patterns="README.md"`.

        Arguments:
            repo_id: the repository, `"USER/NAME"`, or `"NAME"` for one of your own.
            config, tradeoffs, preprocessing, model_card_kwargs: as for `save_pretrained`.
            commit_message: of the commit.
            private: whether a new repository is private; by default as the Hub decides.
            token: of the Hub; by default that of `hf auth login`.
            branch: to commit to; it must exist. By default `main`.
            create_pr: open a pull request instead of committing.
            allow_patterns, ignore_patterns: which of the files to push.
            delete_patterns: files of the repository to delete in the same commit.

        Returns:
            The URL of the commit.

        Raises:
            CheckpointError: as for `save_pretrained`, or any error of the Hub.
            DataError: an invalid preprocessing.
        """
        from .repository import prepare, upload

        content: dict[str, Any] = {"config": config, "tradeoffs": tradeoffs, "preprocessing": preprocessing}
        return upload(
            prepare(self, **content, metadata=model_card_kwargs),
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            delete_patterns=delete_patterns,
        )
