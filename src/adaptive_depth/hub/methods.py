"""`save_pretrained`, `from_pretrained` and `push_to_hub`, as people who use the Hugging Face Hub expect them.

They need nothing of a network but what `Kept` names, so the class of a network stands above them. What they do is in
`repository.py`, which is imported when one of them is called: most programs never ask for the Hub.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import nn

from ..choose.tradeoffs import TradeOffs
from .folder import Kept


class OnTheHub(Kept):
    """The methods of a network that share it; their names and arguments are those of huggingface_hub's ModelHubMixin.

    Attributes:
        preprocessing: how images become its input, where a folder said so; else None.
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
        """Write the network into a folder as the Hugging Face Hub wants it: config.json, model.safetensors, README.md.

        The three are replaced together or, where that fails, not at all. A README.md that was written or changed by
        hand stays.

        Arguments:
            save_directory: the folder; not one that `save` wrote.
            config: further entries of config.json: a mapping or a dataclass, of plain kinds.
            tradeoffs: quality and costs of the sub-networks, for a table in the card, which names its metric.
            preprocessing: how images become the input: a `Preprocessing`, a `DataConfig`, or a mapping with
                `image_size`, `channels`, `mean`, `std`, `interpolation`, `crop_pct` and `classes` (the last three may
                be left out); by default what the network has.
            repo_id: the repository `USER/NAME` that the card names; by default the folder's name.
            push_to_hub: also push, to this repository.
            model_card_kwargs: metadata of the card, as huggingface_hub's ModelCardData takes it, such as
                `{"license": "mit", "base_model": "timm/resnet50.a1_in1k"}`.
            **push_to_hub_kwargs: as for `push_to_hub`.

        Returns:
            The URL of the commit with `push_to_hub=True`, else None.

        Raises:
            CheckpointError: the folder cannot be written, or holds a network of `save`; entries, metadata or
                trade-offs that do not fit; whatever the Hub says.
            DataError: a preprocessing that is none.

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
        """The network of a folder, or of a repository of the Hugging Face Hub, in eval mode on the CPU.

        Nothing that is read can run code; the weights are compared with the SHA-256 in config.json.

        Arguments:
            pretrained_model_name_or_path: a folder that `save_pretrained` or `save` wrote, or `"USER/NAME"`.
            model: a model of the same architecture, for networks whose model no name builds; its weights are
                replaced.
            another_class: may the model's class have another name than the one that was saved?
            force_download: fetch again what the cache holds.
            token: of the Hub; by default that of `hf auth login`.
            cache_dir: where fetched files are kept.
            local_files_only: fetch nothing, read what the cache holds.
            revision: a branch, tag or commit.

        Raises:
            CheckpointError: no network there, files that are damaged, mixed, foreign or of a newer version, weights
                that do not fit the model, or whatever the Hub says.

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

        The repository is made where it does not exist. A card that was changed there is replaced: keep it with
        `ignore_patterns="README.md"`.

        Arguments:
            repo_id: the repository, `"USER/NAME"`, or `"NAME"` for one of your own.
            config, tradeoffs, preprocessing, model_card_kwargs: as for `save_pretrained`.
            commit_message: of the commit.
            private: is a new repository private? By default as the Hub decides.
            token: of the Hub; by default that of `hf auth login`.
            branch: to commit to; it must exist. By default `main`.
            create_pr: open a pull request instead of committing.
            allow_patterns, ignore_patterns: which of the files to push.
            delete_patterns: files of the repository to delete in the same commit.

        Returns:
            The URL of the commit.

        Raises:
            CheckpointError: as for `save_pretrained`, or whatever the Hub says.
            DataError: a preprocessing that is none.
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
